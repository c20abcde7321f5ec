"""Where adapters are found: folders and hub ids; files that are damaged or hostile."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import load_adapter, save_adapter
from aurac.errors import CheckpointError

OVERRIDES = {"method": "lora", "scaling": "rank", "alpha": 4.0}
MAIN, TAG = "a" * 40, "b" * 40


def adapter_of(rank):
    return random_adapter(tiny_llama(), rank, names=["q_proj"])


def test_hub_ids(tmp_path, monkeypatch):
    """owner/name has rank 2 on main, 4 at tag v1, and 3 in the subfolder deep/er of v1."""
    root = tmp_path / "hub" / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(MAIN)
    (root / "refs" / "v1").write_text(TAG)
    for commit, inside, rank in ((TAG, "deep/er", 3), (MAIN, ".", 2), (TAG, ".", 4)):
        folder = root / "snapshots" / commit / inside
        saved = save_adapter(adapter_of(rank), tmp_path / f"rank{rank}")
        shutil.copytree(saved, folder, dirs_exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root.parent))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    ranks = {"": 2, "@v1": 4, f"@{TAG}": 4, "@v1:deep/er": 3}
    found = {end: load_adapter(f"owner/name{end}") for end in ranks}
    assert {end: adapter.rank for end, adapter in found.items()} == ranks
    assert [adapter.name for adapter in found.values()] == ["name", "name", "name", "er"]
    for nowhere in ("owner/name@v2", "owner/other", "owner/name:no", "owner/name:../.."):
        with pytest.raises(CheckpointError, match="no folder") as caught:
            load_adapter(nowhere)
        assert "\n" not in str(caught.value)
    save_adapter(adapter_of(1), tmp_path / "owner" / "name")  # a folder here comes first
    assert load_adapter("owner/name").rank == 1


def test_folders_that_hold_one_adapter_several_or_none(tmp_path, monkeypatch):
    folder = save_adapter(adapter_of(4), tmp_path / "adapter")
    assert load_adapter(tmp_path).source == folder
    monkeypatch.chdir(folder)
    assert load_adapter(".").name == "adapter"
    assert load_adapter(".", name="other").name == "other"
    assert load_adapter(folder / "adapter_model.safetensors").source == folder
    save_adapter(adapter_of(2), tmp_path / "second")
    with pytest.raises(CheckpointError, match="2 adapters, of which to name one: adapter, second"):
        load_adapter(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    tiny_llama().save_pretrained(tmp_path / "model")
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("adapter_config.json"))
    for place, message in [
        ("missing", "there is no folder or file"),
        ("empty", "no folder with an adapter"),
        ("notes.txt", "no folder with an adapter of PEFT or MLX"),
        ("model", "a whole model, no adapter"),
        ("bare", "weights of an adapter .* no adapter_config.json"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_adapter(tmp_path / place)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


def test_a_pickle_is_read_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    folder = save_adapter(adapter := adapter_of(2), tmp_path / "adapter")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert load_adapter(folder).sha256 == adapter.sha256
    torch.save({"a": Bomb()}, folder / "adapter_model.bin")
    for place in ("bomb.pt", "raw.pt", "adapter"):
        with pytest.raises(CheckpointError, match=r"damaged, or holds more|cannot be loaded"):
            load_adapter(tmp_path / place, **OVERRIDES)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "aurac.json"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_files_that_were_cut_short(tmp_path, name, share):
    folder = save_adapter(adapter_of(2), tmp_path / "adapter")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=name) as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)
