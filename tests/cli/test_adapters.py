"""`aurac inspect` and `aurac truncate`, with dense linear algebra and plain PEFT as oracles."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from support.adapters import load_with_peft, random_adapter, save_with_peft, tiny_llama

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.adapters.inspect import inspect
from aurac.cli import cli

NESTED = Nesting("matryoshka", (1, 2, 4))


@pytest.fixture
def adapter():
    names = ["q_proj", "down_proj"]
    return random_adapter(tiny_llama(), 4, names=names, nesting=NESTED, alpha=2.0, base="small")


@pytest.fixture
def folder(adapter, tmp_path):
    return save_adapter(adapter, tmp_path / "whole")


def run(*words):
    return CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False).stdout


def test_scales_and_energies_are_those_of_the_dense_update(adapter):
    facts = inspect(adapter)
    # S = {1, 2, 4}, alpha 2, sqrt: s = 2, √2, 1, so p = (3 + √2, 1 + √2, 1, 1)
    assert facts.p == pytest.approx([3 + math.sqrt(2), 1 + math.sqrt(2), 1, 1])
    p = torch.tensor(facts.p, dtype=torch.float64)
    for row in facts.by_rank:
        r, shares = row.rank, []
        for f in adapter.modules.values():
            A, B = f.A.double(), f.B.double()
            whole = B @ torch.diag(p) @ A
            rest = whole - B[:, :r] @ torch.diag(p[:r]) @ A[:r]
            sigma = torch.linalg.svdvals(whole).square()
            shares.append([1 - rest.square().sum() / sigma.sum(), sigma[:r].sum() / sigma.sum()])
        assert [row.prefix, row.svd] == pytest.approx(torch.tensor(shares).mean(0).tolist())
        assert (row.parameters, row.bytes) == (adapter.parameters(r), adapter.bytes(r))


@pytest.mark.parametrize(
    ("nesting", "scales"),
    [
        (None, [1, 1, 1]),  # best cut svd, rescale keep: s_4 = 2 / √4 at every rank
        (NESTED, [1, 1, 1]),  # rescale trained: P / s_4 is in A, and s_4 outside
        (Nesting("dylora", (1, 2, 4)), [2, math.sqrt(2), 1]),  # rescale rule: s_r
    ],
    ids=["lora", "matryoshka", "dylora"],
)
def test_the_scale_of_a_rank_is_that_of_its_best_cut(adapter, nesting, scales, tmp_path):
    adapter = replace(adapter, nesting=nesting)
    facts = inspect(adapter)
    assert [row.scale for row in facts.by_rank] == pytest.approx(scales)
    for row in facts.by_rank:
        cut = save_adapter(truncate(adapter, row.rank), tmp_path / str(row.rank))
        plain = load_with_peft(tiny_llama(), cut)
        layer = plain.base_model.model.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == pytest.approx(row.scale)


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}, True),
        ({"modules_to_save": ["absent"]}, False),  # which the base has not: vLLM reads the config
        ({"bias": "lora_only"}, False),
        ({"use_dora": True}, False),
    ],
    ids=str,
)
def test_a_slot_is_shown_where_vllm_serves_the_adapter(config, served, tmp_path):
    """By the rules of `PEFTHelper.validate_legal` in vLLM 0.34."""
    save_with_peft(tiny_llama(), tmp_path, r=4, target_modules=["q_proj", "v_proj"], **config)
    out, facts = run("inspect", tmp_path), json.loads(run("inspect", tmp_path, "--json"))
    assert ("vLLM slot, 16 bit" in out, "vLLM does not serve this" in out) == (served, not served)
    # 2 bytes × rank 8 × 2 layers × (q: 32 + 32, v: 32 + 16)
    slots = {(row["slot"], row["slot_bytes"]) for row in facts["by_rank"][1:]}
    assert slots == {(8, 2 * 8 * 2 * 112) if served else (None, None)}


def test_what_is_not_recorded_or_not_known_is_said(adapter, folder, tmp_path):
    name, f = next(iter(adapter.modules.items()))
    zero = replace(adapter, modules={name: replace(f, B=torch.zeros_like(f.B))})
    plain = save_adapter(replace(zero, nesting=None, base=None), tmp_path / "plain")
    assert run("inspect", plain).count("not recorded") == 3  # base, method and seed
    facts = json.loads(run("inspect", plain, "--json"))
    assert (facts["method"], facts["p"], facts["by_rank"][0]["prefix"]) == (None, None, None)
    facts = json.loads(run("inspect", folder, "--json"))
    assert (facts["method"], facts["nesting"]["ranks"]) == ("matryoshka", [1, 2, 4])
    cut = save_adapter(truncate(adapter, 2), tmp_path / "cut")
    assert "matryoshka before it was cut" in run("inspect", cut)


@pytest.mark.parametrize("how", [{}, {"rescale": "rule"}, {"basis": "svd", "dtype": "bfloat16"}])
def test_a_cut_is_that_of_the_library(folder, tmp_path, how):
    flags = [word for name, value in how.items() for word in (f"--{name}", value)]
    said = run("truncate", folder, "--rank", 2, *flags, "--out", tmp_path / "cut")
    assert load_adapter(tmp_path / "cut").sha256 == truncate(load_adapter(folder), 2, **how).sha256
    for shown in (said, run("inspect", tmp_path / "cut")):
        assert f"MB in {how.get('dtype', 'float32')}" in shown


def test_a_file_that_does_not_describe_itself_is_made_plain_peft(adapter, tmp_path):
    state = {}
    for name, f in adapter.modules.items():
        state[f"{name}.lora_A"], state[f"{name}.lora_B"] = f.A.T.contiguous(), f.B.T.contiguous()
    torch.save(state, tmp_path / "x.pt")
    stated = ["--method", "matryoshka", "--scaling", "sqrt", "--alpha", 2]
    stated += ["--nested-ranks", "1,2,4", "--base", "small"]
    run("truncate", tmp_path / "x.pt", *stated, "--out", tmp_path / "out")
    made = load_adapter(tmp_path / "out")
    assert (made.sha256, made.base) == (adapter.sha256, "small")
