"""The live model against a dense fp64 oracle, and the base that it leaves behind.

Every kind of adapter, and plain PEFT, are in test_matrix.py.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.adapters import dense, logits, random_adapter, tiny_gpt2, tiny_llama

from aurac.adapters import Nesting, attach, check_fits, prepare
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
