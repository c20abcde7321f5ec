"""The live model against a dense fp64 oracle, and against plain PEFT on the exported checkpoint."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.adapters import dense, load_with_peft, logits, random_adapter, tiny_gpt2, tiny_llama

from aurac.adapters import Nesting, attach, check_fits, load_adapter, prepare, save_adapter
from aurac.errors import CheckpointError, RankError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4, 8))
GPT2_TARGETS = ["c_attn", "c_proj", "c_fc"]
MODELS = {"llama": (tiny_llama, None), "gpt2": (tiny_gpt2, GPT2_TARGETS)}


def on(family, dtype=torch.float32, **fields):
    build, names = MODELS[family]
    base = build(dtype)
    adapter = random_adapter(base, 8, names=names, nesting=NESTED, dtype=dtype, **fields)
    if family == "gpt2":
        adapter = replace(adapter, peft_config={"fan_in_fan_out": True, "task_type": "CAUSAL_LM"})
    return base, adapter, build


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
def test_each_rank_is_the_dense_oracle(family, rule):
    base, adapter, build = on(family, torch.float64, rule=rule, alpha=1.5)
    plain = logits(base)
    with attach(base, prepare(adapter, "prefix", "rule")) as live:
        for r in (1, 2, 5, 8):
            live.set_rank(r)
            s = {"none": 1.5, "rank": 1.5 / r, "sqrt": 1.5 / math.sqrt(r)}[rule]
            updates = {n: s * f.B[:, :r] @ f.A[:r] for n, f in adapter.modules.items()}
            oracle = logits(dense(build(torch.float64), updates))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-11, atol=1e-11)
            assert not torch.allclose(oracle, plain, atol=1e-3)


def test_trained_and_svd_are_the_dense_oracle():
    base, adapter, build = on("llama", torch.float64, alpha=1.0)
    s = (1, 1 / math.sqrt(2), 1 / 2, 1 / math.sqrt(8))  # of the ranks 1, 2, 4 and 8
    p = torch.tensor([sum(s[k:]) for k in (0, 1, 2, 2, 3, 3, 3, 3)], dtype=torch.float64)
    whole = {n: f.B @ torch.diag(p) @ f.A for n, f in adapter.modules.items()}
    for basis in ("prefix", "svd"):
        with attach(base, prepare(adapter, basis)) as live:
            oracle = logits(dense(build(torch.float64), whole))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-10, atol=1e-10)
            live.set_rank(3)
            if basis == "prefix":
                cut = {
                    n: f.B[:, :3] @ torch.diag(p[:3]) @ f.A[:3] for n, f in adapter.modules.items()
                }
            else:
                cut = {n: _best(w, 3) for n, w in whole.items()}
            oracle = logits(dense(build(torch.float64), cut))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-10, atol=1e-10)


def _best(matrix, r):
    U, s, V = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :r] @ torch.diag(s[:r]) @ V[:r]


@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_a_16_bit_base_computes_as_peft_does(factors, tmp_path):
    base = tiny_llama(torch.bfloat16)
    adapter = random_adapter(base, 8, nesting=NESTED, dtype=factors)
    prepared = prepare(adapter)
    with attach(base, prepared) as live:
        for r in (2, 8):
            live.set_rank(r)
            export = save_adapter(prepared.at(r), tmp_path / f"{r}")
            assert load_adapter(export).modules["model.layers.0.mlp.up_proj"].A.dtype == factors
            theirs = load_with_peft(tiny_llama(torch.bfloat16), export)
            assert torch.equal(logits(live.model), logits(theirs))


@pytest.mark.parametrize("family", MODELS)
def test_removal_leaves_the_base_as_it_was(family):
    base, adapter, _ = on(family)
    base.lm_head.requires_grad_(False)
    twin = copy.deepcopy(base)
    weights = list(base.parameters())
    before = [p.requires_grad for p in weights]
    assert set(before) == {True, False}
    with attach(base, prepare(adapter)) as live:
        assert live.model is base
        assert type(base) is type(twin)
        assert not any(p.requires_grad for p in weights)  # as PEFT has it
        live.set_rank(0)
        assert torch.equal(logits(base), logits(twin))
        assert [p.requires_grad for p in weights] == before
        live.set_rank(4)
        assert not torch.equal(logits(base), logits(twin))
        assert not any(p.requires_grad for p in weights)
        with pytest.raises(RankError, match="has the ranks 1 to 8"):
            live.set_rank(9)
        assert live.rank == 4
    with pytest.raises(UsageError, match="removed"):
        live.set_rank(1)
    base.train()
    with attach(base, prepare(adapter)):
        assert base.training
    with pytest.raises(ZeroDivisionError), attach(base, prepare(adapter)):
        _ = 1 / 0
    assert all(m.training for m in base.modules())
    assert str(base) == str(twin)
    assert set(vars(base)) == set(vars(twin))
    assert [p.requires_grad for p in base.parameters()] == before
    assert list(base.state_dict()) == list(twin.state_dict())
    for name, tensor in twin.state_dict().items():
        assert torch.equal(base.state_dict()[name], tensor)
    assert torch.equal(logits(base.eval()), logits(twin))


def test_an_adapter_of_another_base():
    base, adapter, _ = on("llama")
    with pytest.raises(
        CheckpointError,
        match=r"'random' .* 32 in and 32 out for model\.layers\.0.* where base .*has nothing",
    ):
        check_fits(adapter, tiny_gpt2())
    wrong = {n: replace(f, A=f.A[:, :-1]) for n, f in adapter.modules.items()}
    with pytest.raises(CheckpointError, match=r"31 in and 32 out .* has \(32, 32\)"):
        check_fits(replace(adapter, modules=wrong), base)
    with (
        attach(base, prepare(adapter)),
        pytest.raises(UsageError, match="carries an adapter already"),
    ):
        check_fits(adapter, base)
    check_fits(adapter, base)
