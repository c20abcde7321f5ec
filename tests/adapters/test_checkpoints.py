"""What a command line names is the adapters that are meant."""

from __future__ import annotations

import pytest

from aurac.adapters.checkpoints import NamedCheckpoint


@pytest.mark.parametrize(
    ("text", "name", "paths"),
    [
        ("lora per rank=runs/lora_r{1,2}", "lora per rank", ("runs/lora_r1", "runs/lora_r2")),
        ("runs/lora_r{1, 16}", "lora_r", ("runs/lora_r1", "runs/lora_r16")),
        ("runs/{1,2}/adapter", "adapter", ("runs/1/adapter", "runs/2/adapter")),
        ("ours=runs/a", "ours", ("runs/a",)),
        ("owner/name@main:sub=1", None, ("owner/name@main:sub=1",)),
        ("runs/a", None, ("runs/a",)),
    ],
)
def test_names_of_checkpoints(text, name, paths):
    checkpoint = NamedCheckpoint.of(text)
    assert (checkpoint.name, checkpoint.paths) == (name, paths)


def test_a_path_that_exists_is_a_path(tmp_path):
    (tmp_path / "a=b{1,2}").mkdir()
    there = str(tmp_path / "a=b{1,2}")
    assert NamedCheckpoint.of(there).paths == (there,)
