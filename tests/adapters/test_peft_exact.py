"""Every row of the table in docs/adapters.md, on checkpoints that PEFT itself writes.

An exact row holds when the live model gives plain PEFT's own logits at full rank, an export gives
the live model's logits at each lower rank, and both are a dense fp64 oracle that reads the raw
tensors and shares no code with aurac.
"""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from support.adapters import load_with_peft
from support.peft_rows import EXACT, loaded_by_peft, make, out
from torch import nn

from aurac.adapters import attach, load_adapter, prepare, save_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here


def oracle(build, folder, r):
    """The dense model at rank r, from the raw files alone."""
    config = json.loads((folder / "adapter_config.json").read_text())
    raw = {
        k.removeprefix("base_model.model."): v.double()
        for k, v in load_file(folder / "adapter_model.safetensors").items()
    }
    base = build().double()
    if hasattr(base, "set_experts_implementation"):
        base.set_experts_implementation("eager")  # the grouped kernel knows no fp64
    _replace(base, raw, config)
    for key, A in raw.items():
        match = re.fullmatch(r"(.+)\.lora_(embedding_)?A(\.weight)?", key)
        if match is None:
            continue
        B = raw[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        _add(base, match[1], (A, B), r, config)
        if f"{match[1]}.lora_magnitude_vector" in raw:
            _renormalise(base.get_submodule(match[1]), raw[f"{match[1]}.lora_magnitude_vector"])
    return base


def _renormalise(module, magnitude):
    """DoRA: each output's weights get the trained norm."""
    rows = module.weight.data
    if not isinstance(module, nn.Linear):
        rows = rows.T  # a view: embeddings and transformers' Conv1D keep outputs last
    rows *= (magnitude.flatten() / rows.norm(dim=1))[:, None]


def _full_rank(name, config):
    def found(pattern, default):
        for key, value in (pattern or {}).items():
            if re.match(rf"(.*\.)?({key})$", name):
                return value
        return default

    return found(config["rank_pattern"], config["r"]), found(
        config["alpha_pattern"], config["lora_alpha"]
    )


def _add(base, name, factors, r, config):
    A, B = factors
    R, alpha = _full_rank(name, config)
    r = min(r, R)
    s = alpha / math.sqrt(r) if config["use_rslora"] else alpha / r
    plain = name.replace(".base_layer", "")
    owners = {t.rpartition(".")[0]: [] for t in config["target_parameters"] or ()}
    for target in config["target_parameters"] or ():
        owners[target.rpartition(".")[0]].append(target.rpartition(".")[2])
    owner = next((o for o in owners if plain.endswith(o)), None)
    if owner is not None:
        _add_experts(base.get_submodule(plain), factors, R, r, s)
        return
    module = base.get_submodule(plain)
    weight = module.weight.data
    if isinstance(module, nn.Embedding):
        # only the lookup is adapted: PEFT leaves a tied output matrix as it is
        module.weight = nn.Parameter(weight + s * (B[:, :r] @ A[:r]).T)
    else:
        delta = s * B[:, :r] @ A[:r]
        module.weight.data = weight + (delta if isinstance(module, nn.Linear) else delta.T)


def _add_experts(module, factors, R, r, s):
    """Expert-major A, expert-fastest B; the parameter is the one that the shapes fit."""
    A, B = factors
    E = A.shape[0] // R
    for parameter in module.parameters(recurse=False):
        if parameter.shape[-2:] == (B.shape[0], A.shape[1]):
            for e in range(E):
                a = A[e * R : e * R + r]
                b = B[:, [k * E + e for k in range(r)]]
                target = parameter.data[e] if parameter.ndim == 3 else parameter.data
                target += s * b @ a
            return
    raise AssertionError("no parameter fits")


def _replace(base, raw, config):
    """What stands beside the factors, put in by hand."""
    saved = config["modules_to_save"] or ()
    tokens = config["trainable_token_indices"]
    for key, value in raw.items():
        if ".lora_" in key:
            continue
        path, _, leaf = key.rpartition(".")
        if leaf == "trainable_tokens_delta":
            indices = tokens if isinstance(tokens, list) else tokens["embed_tokens"]
            base.get_submodule(path.removesuffix(".token_adapter")).weight.data[indices] = value
        elif any(path.endswith(name) for name in saved):
            setattr(base.get_submodule(path), leaf, nn.Parameter(value))
        else:
            getattr(base.get_submodule(path.replace(".base_layer", "")), leaf).data = value


@pytest.mark.parametrize("row", EXACT)
def test_exact_rows(row, tmp_path):
    build = make(row, tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs")
    theirs = out(loaded_by_peft(build(), tmp_path / "theirs"))
    base = build()
    plain, structure = out(base), str(base)
    for basis in ("prefix", "svd"):
        prepared = prepare(adapter, basis)
        with attach(base, prepared) as live:
            if basis == "prefix":
                assert torch.equal(out(base), theirs)
            for r in (1, 2, 3, 4):
                live.set_rank(r)
                live_logits = out(base)
                export = save_adapter(prepared.at(r), tmp_path / f"{basis}{r}")
                loaded = out(load_exported(row, build(), export))
                assert torch.equal(live_logits, loaded), (basis, r)
                if basis == "prefix":
                    dense = out(oracle(build, tmp_path / "theirs", r)).float()
                    torch.testing.assert_close(live_logits, dense, rtol=1e-4, atol=2e-5)
                assert not torch.allclose(live_logits, plain, atol=1e-4)
            live.set_rank(0)
            assert torch.equal(out(base), plain)
    assert torch.equal(out(base), plain)
    assert str(base) == structure


def load_exported(row, base, folder):
    """Plain PEFT must not warn about an export, except about what PEFT says of any such adapter."""
    warned = row.endswith("tied")
    return loaded_by_peft(base, folder) if warned else load_with_peft(base, folder)


HALF = ["plain LoRA", "use_dora", "embeddings, tied", "target_parameters (experts)", "bias all"]


@pytest.mark.parametrize("row", HALF)
def test_a_16_bit_base_computes_as_peft_does(row, tmp_path):
    build = make(row, tmp_path / "theirs")
    theirs = loaded_by_peft(build().to(torch.bfloat16), tmp_path / "theirs")
    base = build().to(torch.bfloat16)
    plain = out(base)
    with attach(base, prepare(load_adapter(tmp_path / "theirs"))):
        assert torch.equal(out(base), out(theirs))
        assert not torch.equal(out(base), plain)
