"""Files with names of their own: the map that a user gives, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import load_adapter
from aurac.cli import cli
from aurac.errors import AuracError, CheckpointError, UsageError
from aurac.models.base import KnownBase

OVERRIDES = {"method": "lora", "scaling": "rank", "alpha": 8.0}
FLAGS = ["--method", "lora", "--scaling", "rank"]
PATTERNS = {"A": "net.{module}.lora_down.weight", "B": "net.{module}.lora_up.weight"}
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def adapter():
    return random_adapter(tiny_llama(), 4, rule="rank", alpha=8.0)


def renamed(adapter, *, turned=False):
    state = {}
    for name, f in adapter.modules.items():
        A, B = (f.A.T, f.B.T) if turned else (f.A, f.B)
        state[f"net.{name}.lora_down.weight"] = A.contiguous()
        state[f"net.{name}.lora_up.weight"] = B.contiguous()
    return state


def same(read, adapter):
    assert set(read.modules) == set(adapter.modules)
    for name, f in adapter.modules.items():
        assert torch.equal(read.modules[name].A, f.A)
        assert torch.equal(read.modules[name].B, f.B)
        assert (read.modules[name].rule, read.modules[name].alpha) == (f.rule, f.alpha)


@pytest.mark.parametrize("turned", [False, True])
def test_patterns(adapter, tmp_path, turned):
    save_file(renamed(adapter, turned=turned), tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no lora_A and lora_B.*give keys.'A'.= and keys.'B'.="
    ):
        load_adapter(tmp_path / "x.safetensors", **OVERRIDES)
    same(load_adapter(tmp_path / "x.safetensors", **OVERRIDES, keys=PATTERNS), adapter)


def test_an_alpha_per_module(adapter, tmp_path):
    state = renamed(adapter)
    for k, name in enumerate(adapter.modules):
        state[f"net.{name}.alpha"] = torch.tensor(float(k + 1))
    save_file(state, tmp_path / "x.safetensors")
    keys = {**PATTERNS, "alpha": "net.{module}.alpha"}
    with pytest.raises(CheckpointError, match="beside its factors"):
        load_adapter(tmp_path / "x.safetensors", **OVERRIDES, keys=PATTERNS)
    overrides = {"method": "lora", "scaling": "rank"}
    read = load_adapter(tmp_path / "x.safetensors", **overrides, keys=keys)
    assert [read.modules[name].alpha for name in adapter.modules] == [k + 1.0 for k in range(14)]
    assert read.modules[Q].scale(2) == 0.5
    del state[f"net.{Q}.alpha"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"give alpha=$"):
        load_adapter(tmp_path / "x.safetensors", **overrides, keys=keys)
    state[f"net.{Q}.alpha"] = torch.ones(2)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="alpha of shape"):
        load_adapter(tmp_path / "x.safetensors", **overrides, keys=keys)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_that_names_each_module(adapter, tmp_path, suffix):
    state, names = {}, {}
    for k, (name, f) in enumerate(adapter.modules.items()):
        state[f"a{k}"], state[f"b{k}"] = f.A, f.B
        names[name] = {"A": f"a{k}", "B": f"b{k}"}
    save_file(state, tmp_path / "x.safetensors")
    path = tmp_path / f"names.{suffix}"
    lines = [f"{name}: {{A: {k['A']}, B: {k['B']}}}" for name, k in names.items()]
    path.write_text(json.dumps(names) if suffix == "json" else "\n".join(lines))
    run(tmp_path / "x.safetensors", *FLAGS, "--alpha", 8, "--key-map", path, "--save")
    same(load_adapter(tmp_path / "x.safetensors"), adapter)  # the side-car keeps the names
    del state["b3"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no tensor 'b3', which the key map names"):
        load_adapter(tmp_path / "x.safetensors")


def test_square_layers_are_settled_by_the_base_or_refused(tmp_path):
    base = tiny_llama()
    adapter = random_adapter(base, 4, names=["q_proj", "o_proj"], rule="rank", alpha=8.0)
    base.save_pretrained(tmp_path / "base")
    for turned in (False, True):
        save_file(renamed(adapter, turned=turned), tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=r"only square shapes.*give base="):
            load_adapter(tmp_path / "x.safetensors", **OVERRIDES, keys=PATTERNS)
        overrides = {**OVERRIDES, "keys": PATTERNS, "base": str(tmp_path / "base")}
        same(load_adapter(tmp_path / "x.safetensors", **overrides, bases=KnownBase), adapter)
    wrong = renamed(adapter)
    wrong[f"net.{Q}.lora_up.weight"] = torch.ones(48, 4)
    save_file(wrong, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="expected 32 in and 32 out"):
        load_adapter(tmp_path / "x.safetensors", **overrides, bases=KnownBase)


def run(*arguments):
    result = CliRunner().invoke(cli, ["inspect", *map(str, arguments)])
    if isinstance(result.exception, AuracError):
        raise result.exception
    assert result.exception is None, result.output
    return result.stdout


def test_the_command_line(adapter, tmp_path):
    save_file(renamed(adapter), tmp_path / "x.safetensors")
    keys = ["--a-key", PATTERNS["A"], "--b-key", PATTERNS["B"]]
    assert "14 (14 of rank 4)" in run(tmp_path / "x.safetensors", *FLAGS, "--alpha", 8, *keys)
    with pytest.raises(UsageError, match="expected both"):
        run(tmp_path / "x.safetensors", *FLAGS, *keys[:2])
    with pytest.raises(UsageError, match="one way"):
        run(tmp_path / "x.safetensors", *FLAGS, *keys, "--key-map", tmp_path / "k.json")
    with pytest.raises(UsageError, match="0 or 1 for each group"):
        run(tmp_path / "x.safetensors", *FLAGS, "--enable-lora", "1,2")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"A": "lora_down", "B": "lora_up"},
        {"A": "{module}.{module}", "B": "{module}.b"},
        {"m": "a"},
        {"m": {"A": "a"}},
        {"m": {"A": "a", "B": 3}},
        {"m": {"A": "a", "B": "a"}},
        {"m": {"A": "a", "B": "b", "C": "c"}},
        {"m": {"A": "a", "B": "b"}, "n": {"A": "a", "B": "c"}},
    ],
    ids=str,
)
def test_maps_that_are_none(adapter, tmp_path, keys):
    save_file(renamed(adapter), tmp_path / "x.safetensors")
    with pytest.raises(UsageError):
        load_adapter(tmp_path / "x.safetensors", **OVERRIDES, keys=keys)


@pytest.mark.parametrize("text", ["", "[1]", "{", "a: b: c", "1: {A: a, B: b}", "\x00", "null"])
def test_key_map_files_that_are_none(tmp_path, text):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    (tmp_path / "k.yaml").write_text(text)
    with pytest.raises(UsageError, match="key map"):
        run(tmp_path / "x.safetensors", *FLAGS, "--key-map", tmp_path / "k.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        run(tmp_path / "x.safetensors", *FLAGS, "--key-map", tmp_path / "missing.json")


def test_a_map_for_a_peft_folder_is_refused(adapter, tmp_path):
    from aurac.adapters import save_adapter

    folder = save_adapter(adapter, tmp_path / "a")
    for overrides in ({"keys": PATTERNS}, {"enable_lora": (1, 0)}):
        with pytest.raises(UsageError, match="names its own tensors"):
            load_adapter(folder, **overrides)
