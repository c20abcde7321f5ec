"""The live model against a dense fp64 oracle, and against plain PEFT on the exported checkpoint."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from support.adapters import (
    dense,
    load_with_peft,
    logits,
    random_adapter,
    save_with_peft,
    tiny_gpt2,
    tiny_llama,
)

from aurac.adapters import (
    Nesting,
    adapter_from_peft,
    attach,
    check_base,
    check_fits,
    load_adapter,
    prepare,
    save_adapter,
)
from aurac.adapters.formats.peft import NESTED as NESTED_AT
from aurac.adapters.formats.sidecar import Sidecar
from aurac.errors import CheckpointError, RankError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4, 8))
GPT2_TARGETS = ["c_attn", "c_proj", "c_fc"]
MODELS = {"llama": (tiny_llama, None), "gpt2": (tiny_gpt2, GPT2_TARGETS)}


def on(family, dtype=torch.float32, **fields):
    build, names = MODELS[family]
    base = build(dtype)
    adapter = random_adapter(base, 8, names=names, nesting=NESTED, **fields)
    if family == "gpt2":
        adapter = _with(adapter, peft_config={"fan_in_fan_out": True, "task_type": "CAUSAL_LM"})
    return base, adapter, build


def _with(adapter, **changes):
    from dataclasses import replace

    return replace(adapter, **changes)


def expected_scale(rule, alpha, r):
    return {"none": alpha, "rank": alpha / r, "sqrt": alpha / math.sqrt(r)}[rule]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
def test_each_rank_is_the_dense_oracle(family, rule):
    base, adapter, build = on(family, torch.float64, rule=rule, alpha=1.5)
    plain = logits(base)
    with attach(base, prepare(adapter, "prefix", "rule")) as live:
        for r in (1, 2, 5, 8):
            live.set_rank(r)
            s = expected_scale(rule, 1.5, r)
            updates = {
                n: s * f.B[:, :r].double() @ f.A[:r].double() for n, f in adapter.modules.items()
            }
            oracle = logits(dense(build(torch.float64), updates))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-11, atol=1e-11)
            assert not torch.allclose(oracle, plain, atol=1e-3)


def test_trained_and_svd_are_the_dense_oracle():
    base, adapter, build = on("llama", torch.float64, alpha=1.0)
    h = 1 / math.sqrt(2)
    last = 1 / math.sqrt(8)
    p = torch.tensor(
        [1 + h + 0.5 + last, h + 0.5 + last] + [0.5 + last] * 2 + [last] * 4, dtype=torch.float64
    )
    whole = {n: f.B.double() @ torch.diag(p) @ f.A.double() for n, f in adapter.modules.items()}
    for basis in ("prefix", "svd"):
        prepared = prepare(_with(adapter, modules=_doubled(adapter)), basis)
        with attach(base, prepared) as live:
            oracle = logits(dense(build(torch.float64), whole))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-10, atol=1e-10)
            live.set_rank(3)
            if basis == "prefix":
                cut = {
                    n: f.B[:, :3].double() @ torch.diag(p[:3]) @ f.A[:3].double()
                    for n, f in adapter.modules.items()
                }
            else:
                cut = {n: _best(w, 3) for n, w in whole.items()}
            oracle = logits(dense(build(torch.float64), cut))
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-10, atol=1e-10)


def _doubled(adapter):
    return {n: _with(f, A=f.A.double(), B=f.B.double()) for n, f in adapter.modules.items()}


def _best(matrix, r):
    U, s, V = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :r] @ torch.diag(s[:r]) @ V[:r]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(
    "how",
    [("prefix", "rule"), ("prefix", "keep"), ("prefix", "trained"), ("svd", "keep")],
    ids="-".join,
)
def test_exports_in_plain_peft_give_the_live_logits_exactly(family, how, tmp_path):
    base, adapter, build = on(family, alpha=3.0)
    loaded = load_adapter(save_adapter(adapter, tmp_path / "whole"))
    prepared = prepare(loaded, *how)
    with attach(base, prepared) as live:
        for r in (1, 3, 8):
            live.set_rank(r)
            theirs = load_with_peft(build(), save_adapter(prepared.at(r), tmp_path / f"{r}"))
            assert torch.equal(logits(live.model), logits(theirs))


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
    twin = copy.deepcopy(base)
    before, attributes, gradients = (
        str(base),
        set(vars(base)),
        [p.requires_grad for p in base.parameters()],
    )
    with attach(base, prepare(adapter)) as live:
        assert live.model is base
        assert type(base) is type(twin)
        live.set_rank(0)
        assert torch.equal(logits(base), logits(twin))
        live.set_rank(4)
        assert not torch.equal(logits(base), logits(twin))
    assert str(base) == before
    assert set(vars(base)) == attributes
    assert [p.requires_grad for p in base.parameters()] == gradients
    assert list(base.state_dict()) == list(twin.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(base.state_dict().values(), twin.state_dict().values(), strict=True)
    )
    assert torch.equal(logits(base), logits(twin))


def test_an_exception_restores_the_base():
    base, adapter, _ = on("llama")
    plain = logits(base)
    with pytest.raises(ZeroDivisionError), attach(base, prepare(adapter)):
        _ = 1 / 0
    assert torch.equal(logits(base), plain)


def test_training_mode_is_restored():
    base, adapter, _ = on("llama")
    base.train()
    with attach(base, prepare(adapter)):
        assert base.training
    assert all(m.training for m in base.modules())


def test_ranks_it_does_not_have():
    base, adapter, _ = on("llama")
    with attach(base, prepare(adapter)) as live:
        with pytest.raises(RankError, match="has the ranks 1 to 8"):
            live.set_rank(9)
        assert live.rank == 8
    with pytest.raises(UsageError, match="removed"):
        live.set_rank(1)


def test_an_adapter_of_another_base():
    base, adapter, _ = on("llama")
    with pytest.raises(
        CheckpointError,
        match=r"'random' .* 32 in and 32 out for model\.layers\.0.* where base .*has nothing",
    ):
        check_fits(adapter, tiny_gpt2())
    wrong = {n: _with(f, A=f.A[:, :-1]) for n, f in adapter.modules.items()}
    with pytest.raises(CheckpointError, match=r"31 in and 32 out .* has \(32, 32\)"):
        check_fits(_with(adapter, modules=wrong), base)
    with (
        attach(base, prepare(adapter)),
        pytest.raises(UsageError, match="carries an adapter already"),
    ):
        check_fits(adapter, base)
    check_fits(adapter, base)


def test_a_recorded_base_of_another_hash():
    adapter = _with(random_adapter(tiny_llama(), 2), base="small", base_sha256="a" * 64)
    check_base(adapter, "small", "a" * 64)
    check_base(adapter, "small", None)
    with pytest.raises(
        CheckpointError, match=r"\(hash a{12}\) than those of base big \(hash b{12}"
    ):
        check_base(adapter, "big", "b" * 64)


def test_reading_a_live_peft_model(tmp_path):
    model = save_with_peft(
        tiny_llama(),
        tmp_path / "a",
        r=8,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    # rule none with alpha 1 at rank 8 is lora_alpha 8 in PEFT
    how = {"method": "matryoshka", "nested_ranks": [1, 2, 4, 8]}
    facts = {"base": "b", "base_sha256": "c", "recipe": {"lr": 1e-3}, "seed": 5}
    record = Sidecar(**how, rule="none", alpha=1.0, **facts)
    setattr(model, NESTED_AT, SimpleNamespace(adapter_name="default", record=record))
    adapter = adapter_from_peft(model)
    read = load_adapter(save_adapter(adapter, tmp_path / "saved"))
    assert (read.rule, read.alpha, read.nesting) == ("none", 1.0, NESTED)
    assert (read.base, read.base_sha256, read.recipe, read.seed) == ("b", "c", {"lr": 1e-3}, 5)
    assert read.sha256 == adapter.sha256
    f = adapter.modules["model.layers.0.self_attn.q_proj"]
    assert torch.equal(
        f.A, model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    )
    getattr(model, NESTED_AT).record = Sidecar(**how, rule="rank", alpha=1.0)
    with pytest.raises(CheckpointError, match="lora_alpha 8"):
        adapter_from_peft(model)


def test_the_bases_gradient_flags_at_each_rank():
    base = tiny_llama()
    base.lm_head.requires_grad_(False)
    before = {name: p.requires_grad for name, p in base.named_parameters()}
    assert set(before.values()) == {True, False}
    weights = list(base.parameters())
    with attach(base, prepare(random_adapter(base, 4))) as live:
        assert not any(p.requires_grad for p in weights)  # as PEFT has it
        live.set_rank(0)
        assert [p.requires_grad for p in weights] == list(before.values())
        live.set_rank(2)
        assert not any(p.requires_grad for p in weights)
    assert {name: p.requires_grad for name, p in base.named_parameters()} == before
