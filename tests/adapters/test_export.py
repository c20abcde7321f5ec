"""Streaming: the same bytes as the path that holds everything, and never more than one module."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from support.adapters import random_adapter, save_with_peft, tiny_llama
from support.peft_rows import make

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.adapters.adapter import all_finite
from aurac.adapters.export import save_truncations
from aurac.adapters.formats import storage
from aurac.adapters.inspect import describe
from aurac.errors import CheckpointError, RankError, RunFolderError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4))
LM = {"task_type": "CAUSAL_LM"}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def plain(folder):
    save_adapter(random_adapter(tiny_llama(), 4, nesting=NESTED, dtype=torch.bfloat16), folder)


def embeddings_and_extras(folder):
    save_with_peft(
        tiny_llama(),
        folder,
        r=4,
        target_modules=["embed_tokens", "q_proj"],
        modules_to_save=["lm_head"],
        rank_pattern={"q_proj": 2},
        **LM,
    )


def experts(folder):
    make("target_parameters (experts)", folder)


@pytest.mark.parametrize("build", [plain, embeddings_and_extras, experts])
@pytest.mark.parametrize(
    "how", [("prefix", None), ("prefix", "keep"), ("svd", "keep")], ids=lambda h: f"{h[0]}-{h[1]}"
)
def test_the_same_bytes_as_one_by_one(build, how, tmp_path):
    source = tmp_path / "source"
    build(source)
    basis, rescale = how
    lazy = load_adapter(source, lazy=True)
    assert all(f.A.is_meta and f.B.is_meta for f in lazy.modules.values())
    places = {r: tmp_path / f"several{r}" for r in (1, 3, 4)}
    written = save_truncations(lazy, places, basis=basis, rescale=rescale)
    whole = load_adapter(source)
    for r, place in places.items():
        cut = truncate(whole, r, basis=basis, rescale=rescale)
        save_adapter(cut, tmp_path / f"one{r}")
        assert files(place) == files(tmp_path / f"one{r}")
        assert written[r].parameters(written[r].rank) == cut.parameters(cut.rank)
        assert written[r].derived == cut.derived
        parent = json.loads((place / "aurac.json").read_text())["derived"]["from_sha256"]
        card = (place / "README.md").read_text()
        assert card.count(parent) == 1
        assert f" adapter of rank {cut.rank} for " in card
        assert f"{parent}): rank {r} (basis {basis}, rescale " in card


def test_one_rank_is_what_truncate_gives(tmp_path):
    adapter = random_adapter(tiny_llama(), 4)
    save_truncations(adapter, {2: tmp_path / "a"})
    save_adapter(truncate(adapter, 2), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_hash_and_the_description_of_an_outline_are_the_adapters(tmp_path):
    plain(tmp_path / "a")
    whole, lazy = load_adapter(tmp_path / "a"), load_adapter(tmp_path / "a", lazy=True)
    assert lazy.sha256 == whole.sha256
    assert describe(load_adapter(tmp_path / "a", lazy=True)) == describe(whole)
    again = lazy.loaded()
    for name, f in whole.modules.items():
        assert torch.equal(again.modules[name].A, f.A)
        assert torch.equal(again.modules[name].B, f.B)
    save_adapter(lazy, tmp_path / "b")
    assert (
        files(tmp_path / "a")["adapter_model.safetensors"]
        == (files(tmp_path / "b")["adapter_model.safetensors"])
    )


def test_nothing_is_left_when_the_last_module_is_bad(tmp_path):
    plain(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    state = load_file(weights)
    last = max(state)
    save_file({**state, last: torch.full_like(state[last], float("nan"))}, weights)
    adapter = load_adapter(tmp_path / "a", lazy=True)  # an outline says nothing about numbers
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save_truncations(adapter, {1: tmp_path / "r1", 2: tmp_path / "r2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mine").touch()
    for place, offered in (("a", True), ("runs", False)):  # only what would be replaced
        with pytest.raises(RunFolderError, match="already there") as caught:
            save_adapter(adapter, tmp_path / place)
        assert ("force=True" in str(caught.value)) is offered
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        describe(adapter)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)
    os.truncate(tmp_path / "a" / "adapter_model.safetensors", 4000)
    with pytest.raises(CheckpointError, match=r"cannot read .*lora_B.*; copy or download"):
        adapter.loaded()


def test_requests_that_are_refused_before_anything_is_written(tmp_path):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)
    with pytest.raises(RankError):
        save_truncations(adapter, {5: tmp_path / "x"})
    with pytest.raises(UsageError, match="keep, or fit"):
        save_truncations(adapter, {1: tmp_path / "x"}, basis="svd", rescale="rule")
    with pytest.raises(RunFolderError, match="already there"):
        save_truncations(adapter, {1: tmp_path / "x", 2: tmp_path / "a"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)

    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(RunFolderError, match="No space left"):
        save_truncations(adapter, {1: tmp_path / "r1", 2: tmp_path / "r2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_that_are_not_finite_are_seen(dtype):
    for size in (1, 7, 1000):
        for place in (0, size // 2, size - 1):
            for bad in (float("nan"), float("inf"), float("-inf")):
                x = torch.ones(size, dtype=dtype)
                assert all_finite(x)
                x[place] = bad
                assert not all_finite(x)


def test_tensors_that_share_memory_are_written(tmp_path):
    """Research code may use one A for q and k."""
    one = torch.randn(4, 32)
    state = {}
    for name in ("q_proj", "k_proj"):
        state[f"model.layers.0.self_attn.{name}.lora_A"] = one
        state[f"model.layers.0.self_attn.{name}.lora_B"] = torch.randn(24, 4)
    torch.save(state, tmp_path / "shared.pt")
    adapter = load_adapter(tmp_path / "shared.pt", alpha=4.0, method="lora", scaling="rank")
    save_adapter(adapter, tmp_path / "out")
    stored = load_adapter(tmp_path / "out")
    assert all(torch.equal(f.A, one) for f in stored.modules.values())
