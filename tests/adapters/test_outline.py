"""PEFT folders whose weights were removed: what is planned stays the same, nothing can be read."""

from __future__ import annotations

import json

import pytest
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import (
    Nesting,
    check_fits,
    default_rescale,
    load_adapter,
    prepare,
    save_adapter,
)
from aurac.adapters.formats.storage import OUTLINE, remove_weights
from aurac.errors import CheckpointError


@pytest.fixture
def removed(tmp_path):
    nesting = Nesting("matryoshka", (1, 2, 4))
    adapter = random_adapter(tiny_llama(), 4, nesting=nesting, recipe={"name": "x"}, seed=5)
    folder = save_adapter(adapter, tmp_path / "adapter")
    before = load_adapter(folder)
    remove_weights(folder, load_adapter(folder, lazy=True))
    return before, folder


def test_an_adapter_without_weights_is_planned_as_before(removed):
    before, folder = removed
    assert not list(folder.glob("adapter_model*"))
    for now in (load_adapter(folder), load_adapter(folder, lazy=True, name="other")):
        assert now.sha256 == before.sha256
        assert now.nesting == before.nesting
        assert (now.recipe, now.seed, now.base) == (before.recipe, before.seed, before.base)
        assert [now.parameters(r) for r in (1, 4)] == [before.parameters(r) for r in (1, 4)]
        assert now.bytes(2) == before.bytes(2)
        assert default_rescale(now) == default_rescale(before) == "trained"
        check_fits(now, tiny_llama())
    remove_weights(folder, before)  # once more does nothing
    assert load_adapter(folder).sha256 == before.sha256


def test_its_numbers_are_refused(removed):
    _, folder = removed
    with pytest.raises(CheckpointError, match="were removed, and are needed to read"):
        prepare(load_adapter(folder))
    with pytest.raises(CheckpointError, match="to give it other settings"):
        load_adapter(folder, scaling="none", alpha=2.0)


@pytest.mark.parametrize("content", [{}, {"sha256": "0", "tensors": {"F99 2 2": ["a"]}}, []])
def test_a_damaged_outline_is_refused(removed, content):
    _, folder = removed
    (folder / OUTLINE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=OUTLINE):
        load_adapter(folder)
