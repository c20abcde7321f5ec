"""A method's P in a live PEFT model, against the literal sum of |S| forward passes, in fp64."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.adapters import tiny_llama
from torch import nn
from torch.utils.checkpoint import checkpoint

import aurac
from aurac.adapters import Nesting
from aurac.adapters.methods import TrainingSetup
from aurac.errors import CheckpointError, UsageError
from aurac.training.nested import Nested

S = (1, 2, 4, 8)


class TwoLayers(nn.Module):
    """Enough of a model for PEFT: two linear layers with a non-linearity between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 10)
        self.b = nn.Linear(10, 7)
        self.checkpoint = None

    def forward(self, x):
        if self.checkpoint is None:
            return self.b(torch.tanh(self.a(x)))
        hidden = checkpoint(self.a, x, use_reentrant=self.checkpoint)
        return checkpoint(self.b, torch.tanh(hidden), use_reentrant=self.checkpoint)


def peft_model(scaling="sqrt", alpha=1.0, R=8, **config):
    torch.manual_seed(0)
    given = {
        "r": R,
        "lora_alpha": alpha * R if scaling == "none" else alpha,
        "use_rslora": scaling == "sqrt",
        "target_modules": ["a", "b"],
        "init_lora_weights": False,  # B is not zero, so that A gets gradients too
    }
    return get_peft_model(TwoLayers().double(), LoraConfig(**{**given, **config})).double()


def s(rule, alpha, r):
    return {"none": alpha, "rank": alpha / r, "sqrt": alpha / r**0.5}[rule]


def literal_layer(layer, x, rule, alpha, ranks, weights):
    """W x + Σ_r w_r s_r B[:, :r] A[:r] x, one product per nested rank, none of aurac's code."""
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    total = layer.base_layer(x)
    for r, w in zip(ranks, weights, strict=True):
        own = min(r, len(A))  # a layer of a lower rank stays as it is
        total = total + w * s(rule, alpha, own) * (x @ A[:own].T) @ B[:, :own].T
    return total


def literal(model, x, rule, alpha, ranks, weights=None):
    how = rule, alpha, ranks, weights or (1.0,) * len(ranks)
    inner = model.base_model.model
    return literal_layer(inner.b, torch.tanh(literal_layer(inner.a, x, *how)), *how)


def step(model, x, forward):
    """The output and the gradients of the adapter and of x."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    out = forward(x)
    out.square().sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return out.detach(), found | {"x": x.grad}


def assert_same(got, wanted, atol=1e-10):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.fixture
def x():
    return torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
@pytest.mark.parametrize("ranks", [(1, 2, 4, 8), (3, 8), (8,), (2, 5)])
def test_matryoshka_is_the_literal_sum(scaling, ranks, x):
    weights = tuple(0.5 + 0.25 * k for k in range(len(ranks)))
    model = peft_model(scaling, 1.7)
    wanted = step(model, x, lambda x: literal(model, x, scaling, 1.7, ranks, weights))
    with aurac.nested(model, "matryoshka", ranks=ranks, weights=weights, scaling=scaling):
        got = step(model, x, model)
        assert len(got[1]) == 5
        assert_same(got, wanted)
        model.eval()  # P is what was trained
        assert torch.allclose(model(x), wanted[0], rtol=0, atol=1e-10)


def test_lora_is_plain_peft_bit_for_bit(x):
    model = peft_model(lora_dropout=0.3, rank_pattern={"b": 4}, alpha_pattern={"a": 3})
    torch.manual_seed(1)
    plain = step(model, x, model)
    with aurac.nested(model, "lora"):
        torch.manual_seed(1)
        assert_same(step(model, x, model), plain, atol=0)


@pytest.mark.parametrize("method", ["matryoshka", "dylora"])
def test_a_layer_of_another_rank_or_alpha_has_its_own_scales(method, x):
    """At a rank above its own a layer of a `rank_pattern` stays as it is, as when it is cut."""
    model = peft_model(rank_pattern={"b": 3}, alpha_pattern={"b": 2.0})
    handle = aurac.nested(model, method, ranks=S, seed=1)
    ranks = handle.passes()[0].ranks if method == "dylora" else S
    a, b = model.base_model.model.a, model.base_model.model.b
    ones = (1.0,) * len(ranks)

    def wanted(x):
        hidden = torch.tanh(literal_layer(a, x, "sqrt", 1.0, ranks, ones))
        return literal_layer(b, hidden, "sqrt", 2.0, ranks, ones)

    got = step(model, x, model)
    assert_same(got, step(model, x, wanted))
    p = aurac.load_adapter(model).rank_weights("b")
    third = 2 / math.sqrt(3)
    if method == "dylora":
        assert p is None  # the scale alone
    else:  # ranks 4 and 8 are rank 3 there
        assert p == pytest.approx([2 + 2**0.5 + 2 * third, 2**0.5 + 2 * third, 2 * third])


def test_dylora_draws_for_each_training_pass_alone(x):
    model = peft_model("rank")
    handle = aurac.nested(model, "dylora", ranks=S, scaling="rank", seed=5)
    seen = []
    for number in range(12):
        assert handle.micro_batch == number
        b = handle.passes()[0].ranks[0]
        seen.append(b)
        wanted = step(model, x, lambda x, b=b: literal(model, x, "rank", 1.0, (b,)))
        assert_same(step(model, x, model), wanted)
        with torch.no_grad():  # as a reference of TRL's: no micro-batch, and the whole adapter
            assert torch.allclose(model(x), literal(model, x, "rank", 1.0, (8,)))
        model.eval()
        assert torch.allclose(model.get_base_model()(x), literal(model, x, "rank", 1.0, (8,)))
        model.train()
    assert len({*seen}) >= 3  # 12 draws of 4 ranks: two or fewer kinds with chance below 1e-3
    handle.remove()
    again = aurac.nested(model, "dylora", ranks=S, scaling="rank", seed=5)
    again.micro_batch = 7  # a resumed loop
    assert again.passes()[0].ranks == (seen[7],)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("update", ["prefix", "frozen"])
def test_a_recomputed_pass_has_the_rank_of_the_first(update, reentrant, x):
    model, found = peft_model(), []

    def twice(x):
        out = model(x)
        with torch.no_grad():
            model(x)  # between a pass and its backward
        return out

    for kind in (None, reentrant):
        model.get_base_model().checkpoint = kind
        how = {"ranks": S, "update": update, "seed": 2, "accumulation": 2}
        with aurac.nested(model, "dylora", **how) as handle:
            found.append([step(model, x, twice) for _ in range(6)])
            assert handle.micro_batch == 6
    for got, wanted in zip(*found, strict=True):
        assert_same(got, wanted, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_pass_that_is_not_the_last_is_refused(reentrant, x):
    model = peft_model()
    x.requires_grad_()
    for kind in (None, reentrant):
        model.get_base_model().checkpoint = kind
        with aurac.nested(model, "matryoshka", ranks=S):
            (model(x) + model(x)).sum().backward()
        with aurac.nested(model, "dylora", ranks=S, seed=2) as handle:
            assert len({handle.setup.passes(k, k)[0] for k in range(2)}) == 2
            loss = (model(x) + model(x)).sum()
            if kind is None:
                loss.backward()
                continue
            with pytest.raises(UsageError, match="one pass per backward"):
                loss.backward()


def test_frozen_moves_only_the_drawn_row_and_column(x):
    model = peft_model()
    whole = step(model, x, lambda x: literal(model, x, "sqrt", 1.0, (4,)))[1]
    handle = aurac.nested(model, "dylora", update="frozen", accumulation=3)
    assert handle.setup.nesting.ranks == (1, 2, 3, 4, 5, 6, 7, 8)  # unless they are named
    first = range(0, 300, 3)
    handle.micro_batch = next(k for k in first if handle.setup.passes(k // 3, k)[0].row == 4)
    for _ in range(3):  # one rank for each optimizer step
        found = step(model, x, model)[1]
        # The gradient to the input is that of the whole prefix, not of the one row.
        assert torch.allclose(found["x"], whole["x"], rtol=0, atol=1e-10)
        for name in ("a", "b"):
            for side, dim in (("A", 0), ("B", 1)):
                key = f"base_model.model.{name}.lora_{side}.default.weight"
                kept = torch.zeros_like(whole[key])
                kept.narrow(dim, 3, 1).copy_(whole[key].narrow(dim, 3, 1))
                assert torch.allclose(found[key], kept, rtol=0, atol=1e-10)


def test_layers_that_are_called_past_the_base_have_p_and_no_drawn_rank(x):
    model = peft_model()
    layer = model.get_base_model().a
    with aurac.nested(model, "matryoshka", ranks=S):
        wanted = literal_layer(layer, x, "sqrt", 1.0, S, (1.0,) * len(S))
        assert torch.allclose(layer(x), wanted, rtol=0, atol=1e-10)
    args = SimpleNamespace(gradient_accumulation_steps=2)
    first, then = SimpleNamespace(global_step=0), SimpleNamespace(global_step=1)
    with aurac.nested(model, "dylora", ranks=S) as handle:
        for forward in (model, layer):
            handle.on_step_begin(args, first, None)
            forward(x)
            if forward is model:
                handle.on_step_end(args, then, None)
        with pytest.raises(UsageError, match="calls layers within the model"):
            handle.on_step_end(args, then, None)


def test_frozen_refuses_weights_that_were_replaced(x):
    """As FSDP does: the hooks that hold rows are on the old ones, so that all rows would learn."""
    model = peft_model()
    part = model.get_base_model().b.lora_B["default"]
    with aurac.nested(model, "dylora", update="frozen") as handle:
        model(x)
        part.weight = nn.Parameter(part.weight.detach().clone())
        with torch.no_grad():
            model(x)
        with pytest.raises(UsageError, match=r"`frozen` .* \(FSDP\)"):
            model(x)
    assert not handle._handles


def setup(method="dylora", ranks=S, weights=(), update="prefix", seed=0, **options):
    nesting = Nesting(method, ranks, weights, update if method == "dylora" else None)
    return TrainingSetup(nesting, seed, options)


def test_drawn_ranks_follow_their_chances():
    made = setup(weights=(0.5, 0.25, 0.25, 0.0))
    draws = [made.passes(0, k)[0].ranks[0] for k in range(4000)]
    shares = [draws.count(r) / 4000 for r in S]
    # sd of the first share is 0.008: five of them leave no room for chance
    assert np.allclose(shares, [0.5, 0.25, 0.25, 0.0], atol=0.04)
    assert shares[3] == 0


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_nested_loss_is_the_weighted_mean_of_the_losses_at_each_rank(scaling, x):
    weights = [1.0, 2.0, 1.0, 0.5]
    model = peft_model(scaling, 1.3)
    losses = [literal(model, x, scaling, 1.3, (r,)).square().sum() for r in S]
    wanted = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    wanted.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    nested = Nested(model, setup("nested_loss", weights=weights), scaling, 1.3)
    total = torch.zeros((), dtype=x.dtype)
    for each in nested.passes():
        nested.forced = each
        loss = model(x).square().sum() * each.share
        loss.backward()
        total += loss.detach()
    found = {name: model.get_parameter(name).grad for name in expected}
    assert_same((total, found), (wanted.detach(), expected))


def test_sampled_nested_losses_have_the_same_expectation():
    # 4 ranks, 2 a step: each is drawn in half of the steps and counts double.
    weights = (0.4, 0.3, 0.2, 0.1)
    made = setup("nested_loss", weights=weights, ranks_per_step=2)
    mean = dict.fromkeys(S, 0.0)
    for number in range(4000):
        passes = made.passes(number, 2 * number)
        assert passes == made.passes(number, 2 * number + 1)
        assert len(passes) == 2
        for one in passes:
            mean[one.ranks[0]] += one.share / 4000
    # The largest sd, of w = .4 in half of the steps as .8, is .4/√4000 = .006.
    assert list(mean.values()) == pytest.approx(weights, abs=0.03)


def llama(dtype=torch.float32, **config):
    """A PEFT model of a tiny Llama with a trained-looking adapter of rank 8."""
    torch.manual_seed(5)
    given = {"r": 8, "lora_alpha": 1, "use_rslora": True, "init_lora_weights": False}
    given |= {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    settings = LoraConfig(**{**given, **config})
    return get_peft_model(tiny_llama(dtype), settings, autocast_adapter_dtype=False)


IDS = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


METHODS = {
    "lora": {},
    "matryoshka": {"ranks": S},
    "dylora": {"ranks": S, "weights": (1, 1, 2, 2), "update": "frozen"},
}


@pytest.mark.parametrize("method", METHODS)
def test_it_leaves_nothing_behind_but_the_record_of_how_it_was_trained(method, tmp_path):
    model = llama()
    before = {name: (dict(vars(m)), *hooks(m)) for name, m in model.named_modules()}
    keys = model.state_dict().keys()
    with aurac.nested(model, method, **METHODS[method]) as handle:
        assert model.state_dict().keys() == keys
        model.save_pretrained(tmp_path / "a")
        live, facts = aurac.load_adapter(model), aurac.inspect(model)
        with pytest.raises(UsageError, match="nested already"):
            aurac.nested(model, "lora")
    assert {name: (dict(vars(m)), *hooks(m)) for name, m in model.named_modules()} == before
    handle.remove()
    model.save_pretrained(tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors", "aurac.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    read = aurac.load_adapter(tmp_path / "a")
    assert (read.sha256, read.method, read.rule, read.alpha) == (live.sha256, method, "sqrt", 1)
    assert read.nesting.ranks == ((8,) if method == "lora" else S)
    assert read.nesting.update == ("frozen" if method == "dylora" else None)
    assert (facts.adapter.method, facts.adapter.nesting) == (method, read.nesting)
    assert facts.basis == ("svd" if method == "lora" else "prefix")
    assert aurac.inspect(model).by_rank == facts.by_rank


def hooks(module):
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called)
    kinds += module._state_dict_hooks, module._load_state_dict_pre_hooks
    weights = [p._backward_hooks or {} for p in module.parameters(recurse=False)]
    return [len(each) for each in (*kinds, *weights)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rank_is_what_the_cut_file_computes(method, dtype, tmp_path):
    model = llama(dtype=dtype)
    with aurac.nested(model, method, **METHODS[method]) as handle:
        whole = logits(model)
        model.save_pretrained(tmp_path / "whole")
        for r in (1, 3, 8):
            with handle.rank(r):
                got = logits(model)
            cut = aurac.truncate(tmp_path / "whole", r)
            aurac.save_adapter(cut, tmp_path / f"r{r}")
            theirs = PeftModel.from_pretrained(
                tiny_llama().to(dtype), tmp_path / f"r{r}", autocast_adapter_dtype=False
            )
            assert torch.equal(got, logits(theirs)), r
            live = aurac.truncate(model, rank=r)
            assert (live.sha256, live.derived) == (cut.sha256, cut.derived)
        assert torch.equal(logits(model), whole)
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all(".default." in name for name in trained)


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        ({}, {"scaling": "rank"}, "not rule rank with alpha 1"),
        ({}, {"alpha": 2.0}, "not rule sqrt with alpha 2"),
        ({}, {"method": "nested_loss"}, "aurac train"),
        ({}, {"method": "dora"}, "'dora' is not lora, matryoshka or dylora"),
        ({}, {"ranks": (1, 16)}, "below its last nested rank 16"),
        ({"use_dora": True}, {}, r"q_proj \(DoRA\) takes no P"),
        ({"lora_bias": True}, {}, "sets lora_bias"),
    ],
)
def test_what_would_train_something_else_is_refused(config, settings, said):
    model = llama(**config)
    before = hooks(model.get_base_model())
    with pytest.raises((CheckpointError, UsageError), match=said):
        aurac.nested(model, **{"method": "matryoshka", **settings})
    assert hooks(model.get_base_model()) == before


@pytest.mark.parametrize("method", METHODS)
def test_s_R_is_read_from_the_layer(method, x):  # noqa: N802
    results = []
    for factor in (1, 3):
        model = peft_model()
        model.get_base_model().b.set_scale("default", factor)
        with aurac.nested(model, method, **METHODS[method]):
            results.append(step(model, x, model))
    assert_same(*results, atol=1e-12)


def test_layers_that_pass_the_hook_by_are_an_error(x):
    model = peft_model()
    inner = model.get_base_model()
    with aurac.nested(model, "matryoshka"):
        inner.forward = lambda x: inner.b.base_layer(inner.a(x))
        with model.disable_adapter():
            model(x)  # of the base alone
        with pytest.raises(UsageError, match="layers called b did not call their lora_A"):
            model(x)


@pytest.mark.parametrize("method", ["matryoshka", "dylora"])
def test_a_compiled_model_trains_the_same(method, x):
    model = peft_model()
    results = []
    for prepared in (lambda m: m, partial(torch.compile, backend="aot_eager")):
        with aurac.nested(model, method, ranks=S, seed=4) as handle:
            called = prepared(model)
            results.append([step(model, x, called) for _ in range(4)])
            assert handle.micro_batch == 4
            with handle.rank(2), torch.no_grad():
                results[-1].append((called(x), {}))
    for got, wanted in zip(*results, strict=True):
        assert_same(got, wanted, atol=1e-12)
