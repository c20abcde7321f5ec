"""The same for the other formats: AdaLoRA, merged layers, files with names of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import adalora, merged_factors, random_adapter, tiny_llama
from support.hostile_files import LYING, folder_with, one_line, refused, run_aurac

from aurac.adapters import Nesting, load_adapter, save_adapter
from aurac.errors import AuracError

KEYS = ("--a-key", "{module}.down", "--b-key", "{module}.up")
OVERRIDES = {"method": "lora", "scaling": "rank", "alpha": 4.0}
NESTED = {"method": "dylora", "scaling": "rank", "alpha": 4.0, "nested_ranks": "1,2,4"}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A plain safetensors file of A/B pairs."""
    path = tmp_path_factory.mktemp("named") / "x.safetensors"
    state = {}
    for name, f in random_adapter(tiny_llama(), 4, names=["k_proj"]).modules.items():
        state[f"{name}.down"], state[f"{name}.up"] = f.A, f.B
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adalora") / "a"
    adalora(folder)
    return folder


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "x.pt"
    torch.save({"model_state_dict": merged_factors((1, 1, 0), torch.float32)}, path)
    return path


@pytest.mark.parametrize("at", range(20))
def test_a_named_file_cut_short(named, tmp_path, at):
    data = named.read_bytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(data[: len(data) * at // 20])
    refused(path, *KEYS, **OVERRIDES)


@pytest.mark.parametrize("name", LYING)
def test_a_named_file_that_lies(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LYING[name])
    refused(path, *KEYS, **OVERRIDES)


@pytest.mark.parametrize("at", range(15))
def test_a_merged_archive_cut_short(merged, tmp_path, at):
    data = merged.read_bytes()
    path = tmp_path / "x.pt"
    path.write_bytes(data[: len(data) * at // 15])
    refused(path, "--enable-lora", "1,1,0", **NESTED)


@pytest.mark.parametrize("mask", ["", "x", "1,1,1,0", "0,0,0", "2,1", "1", "-1,1", "1," * 5000])
def test_masks_that_are_none(merged, tmp_path, mask):
    path = tmp_path / "x.pt"
    path.write_bytes(merged.read_bytes())
    if mask == "1,1,1,0":  # three of four do not fit two groups
        assert "does not fit" in refused(path, "--enable-lora", mask, **NESTED)
    else:
        refused(path, "--enable-lora", mask, **NESTED)


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bits_in_adalora(converted, tmp_path, seed):
    """A flip is refused or leaves finite numbers: it cannot end in anything else."""
    weights = bytearray((converted / "adapter_model.safetensors").read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(4):
        weights[int(rng.integers(0, len(weights)))] ^= 1 << int(rng.integers(0, 8))
    config = (converted / "adapter_config.json").read_bytes()
    folder = folder_with(tmp_path, converted, config=config, weights=bytes(weights))
    try:
        read = load_adapter(folder)
    except AuracError as error:
        one_line(error)
    else:
        assert all(torch.isfinite(f.A).all() for f in read.modules.values())


@pytest.mark.parametrize("field", ["init_r", "lora_alpha", "rank_pattern", "target_modules"])
@pytest.mark.parametrize("value", [None, "x", -1, [], {"a": [None]}, 1e300, 10**30], ids=repr)
def test_adalora_configs_of_wrong_types(converted, tmp_path, field, value):
    config = json.loads((converted / "adapter_config.json").read_text())
    data = json.dumps({**config, field: value}).encode()
    folder = folder_with(tmp_path, converted, config=data)
    try:
        read = load_adapter(folder)
    except AuracError as error:
        one_line(error)
    else:  # what PEFT reads from the weights, not from the config
        assert read.modules.keys() == load_adapter(converted).modules.keys()


@pytest.mark.parametrize("at", range(10))
def test_truncating_a_file_that_ends_in_nan_leaves_nothing(tmp_path, at):
    adapter = random_adapter(tiny_llama(), 4, nesting=Nesting("matryoshka", (1, 2, 4)))
    folder = save_adapter(adapter, tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    state = load_file(weights)
    bad = sorted(state)[-1 - at]
    state[bad][-1, -1] = float("inf") if at % 2 else float("nan")
    save_file(state, weights)
    out = tmp_path / "cuts"
    code, output, error = run_aurac("truncate", folder, "--ranks", "pow2", "--out", out)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert "NaN or infinite" in error
    assert not out.exists() or not list(out.iterdir())
