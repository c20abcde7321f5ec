"""The nesting hook against the literal sum of |S| forward passes, in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from aurac.errors import RecipeError
from aurac.training.nesting_hook import NestingHook, lora_linears
from aurac.training.recipe import make_recipe


def recipe(**values):
    return make_recipe(
        {"name": "t", "method": "matryoshka", "rank": 8, "data": "x", "target_modules": ["a", "b"]}
        | values
    )


class TwoLayers(nn.Module):
    """Enough of a model for PEFT: two linear layers with a non-linearity between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 10)
        self.b = nn.Linear(10, 7)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def peft_model(made, seed=0):
    torch.manual_seed(seed)
    alpha = made.alpha * made.rank if made.scaling == "none" else made.alpha
    config = LoraConfig(
        r=made.rank,
        lora_alpha=alpha,
        use_rslora=made.scaling == "sqrt",
        target_modules=list(made.target_modules),
        init_lora_weights=False,  # B is not zero, so that A gets gradients too
    )
    return get_peft_model(TwoLayers().double(), config).double()


def test_a_name_that_is_no_layer_is_warned_of(caplog):
    NestingHook(peft_model(made := recipe()), made)
    assert not caplog.messages
    made = recipe(target_modules=["a", "bb"])
    NestingHook(peft_model(made), made)
    assert caplog.messages == ["no layer of the base is named like bb: it gets no adapter"]


def s(rule, alpha, r):
    return {"none": alpha, "rank": alpha / r, "sqrt": alpha / r**0.5}[rule]


def literal_layer(layer, x, made, ranks, weights):
    """W x + Σ_r w_r s_r B[:, :r] A[:r] x, one product per nested rank, none of aurac's code."""
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    total = layer.base_layer(x)
    for r, w in zip(ranks, weights, strict=True):
        total = total + w * s(made.scaling, made.alpha, r) * (x @ A[:r].T) @ B[:, :r].T
    return total


def literal(model, x, made, ranks, weights):
    inner = model.base_model.model
    hidden = torch.tanh(literal_layer(inner.a, x, made, ranks, weights))
    return literal_layer(inner.b, hidden, made, ranks, weights)


def drawn(made, step):
    """DyLoRA's b of a step: the components that its diagonal lets through."""
    return int(np.count_nonzero(made.passes(step)[0].p))


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
@pytest.mark.parametrize("ranks", [(1, 2, 4, 8), (3, 8), (8,), (2, 5)])
def test_hook_equals_the_literal_sum(scaling, ranks):
    weights = tuple(0.5 + 0.25 * k for k in range(len(ranks)))
    made = recipe(scaling=scaling, nested_ranks=list(ranks), rank_weights=list(weights), alpha=1.7)
    model = peft_model(made)
    x = torch.randn(5, 12, dtype=torch.float64)
    expected = literal(model, x, made, ranks, weights)
    expected.square().sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    hook = NestingHook(model, made)
    got = model(x)
    got.square().sum().backward()
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    assert len(found) == 4
    for name, gradient in found.items():
        assert torch.allclose(gradient, wanted[name], rtol=0, atol=1e-10), name
    hook.check_fired()


def test_p_of_the_trained_rank_alone_is_lora():
    made = recipe(method="lora", scaling="sqrt")
    model = peft_model(made)
    x = torch.randn(3, 12, dtype=torch.float64)
    plain = model(x)
    hook = NestingHook(model, made)
    assert torch.allclose(model(x), plain, rtol=0, atol=1e-12)
    hook.remove()
    assert torch.allclose(model(x), plain, rtol=0, atol=1e-12)


def test_p_of_one_drawn_rank_is_dylora():
    made = recipe(method="dylora", scaling="rank")
    model = peft_model(made)
    hook = NestingHook(model, made)
    x = torch.randn(3, 12, dtype=torch.float64)
    seen = set()
    for step in range(12):
        hook.set_step(step)
        b = drawn(made, step)
        seen.add(b)
        assert torch.allclose(model(x), literal(model, x, made, (b,), (1.0,)), rtol=0, atol=1e-10)
    assert len(seen) >= 3  # 12 draws of 4 ranks: all alike with chance below 1e-4


def test_frozen_update_moves_only_the_drawn_row_and_column():
    made = recipe(method="dylora", dylora_update="frozen", scaling="sqrt")
    model = peft_model(made)
    hook = NestingHook(model, made)
    step = next(k for k in range(100) if drawn(made, k) == 4)
    hook.set_step(step)
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    model(x).square().sum().backward()
    for _, layer in lora_linears(model):
        a, b = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
        rows = a.abs().sum(1).nonzero().flatten().tolist()
        columns = b.abs().sum(0).nonzero().flatten().tolist()
        assert rows == [3]  # row 4, counted from 0
        assert columns == [3]
    # The gradient to the input is that of the whole prefix, not of the one row.
    wanted = torch.autograd.grad(literal(model, x, made, (4,), (1.0,)).square().sum(), x)[0]
    assert torch.allclose(x.grad, wanted, rtol=0, atol=1e-10)


def test_a_layer_that_never_fires_is_an_error():
    made = recipe()
    model = peft_model(made)
    hook = NestingHook(model, made)
    model.base_model.model.a(torch.randn(1, 12, dtype=torch.float64))
    with pytest.raises(RecipeError, match="never called"):
        hook.check_fired()


def test_training_weights_by_hand():
    # S = {1, 2, 4}, sqrt, alpha 1: p_1 = 1 + 1/√2 + 1/2, p_2 = 1/√2 + 1/2, p_3 = p_4 = 1/2.
    made = recipe(rank=4, nested_ranks=[1, 2, 4])
    root = 2**-0.5
    assert np.allclose(made.passes(0)[0].p, [1.5 + root, 0.5 + root, 0.5, 0.5], atol=1e-15)


@given(st.integers(0, 2**31), st.integers(0, 10_000))
def test_drawn_rank_is_a_pure_function_within_the_ranks(seed, step):
    made = recipe(method="dylora", seed=seed)
    assert drawn(made, step) == drawn(made, step)
    assert drawn(made, step) in made.ranks


def test_drawn_ranks_follow_their_chances():
    made = recipe(method="dylora", dylora_probabilities=[0.5, 0.25, 0.25, 0.0])
    draws = [drawn(made, step) for step in range(4000)]
    shares = [draws.count(r) / 4000 for r in (1, 2, 4, 8)]
    # sd of the first share is 0.008: five of them leave no room for chance
    assert np.allclose(shares, [0.5, 0.25, 0.25, 0.0], atol=0.04)
    assert shares[3] == 0


def nested_step(made, model, x, step=0):
    """Loss and gradients of one step as the trainer takes it: a backward pass for each pass."""
    hook = NestingHook(model, made)
    hook.set_step(step)
    total = 0.0
    for one in hook.passes:
        hook.use(one)
        loss = model(x).square().sum() * one.weight
        loss.backward()
        total += loss.item()
    hook.remove()
    return total, gradients(model)


@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_nested_loss_is_the_weighted_mean_of_the_losses_at_each_rank(scaling):
    weights = [1.0, 2.0, 1.0, 0.5]
    made = recipe(method="nested_loss", scaling=scaling, rank_weights=weights)
    model = peft_model(made)
    x = torch.randn(5, 12, dtype=torch.float64)
    losses = [literal(model, x, made, (r,), (1.0,)).square().sum() for r in (1, 2, 4, 8)]
    wanted = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    wanted.backward()
    expected = gradients(model)
    model.zero_grad()
    loss, got = nested_step(made, model, x)
    assert loss == pytest.approx(wanted.item(), abs=1e-10)
    for name, gradient in got.items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name


def test_sampled_nested_losses_have_the_same_expectation():
    # 4 ranks, 2 a step: each is drawn in half of the steps and counts double.
    weights = [0.4, 0.3, 0.2, 0.1]
    values = {"method": "nested_loss", "rank_weights": weights}
    made = recipe(**values, method_options={"ranks_per_step": 2})
    mean = dict.fromkeys((1, 2, 4, 8), 0.0)
    for step in range(4000):
        passes = made.passes(step)
        assert len(passes) == 2
        for one in passes:
            mean[int(np.count_nonzero(one.p))] += one.weight / 4000
    # The largest sd, of w = .4 in half of the steps as .8, is .4/√4000 = .006.
    assert list(mean.values()) == pytest.approx(weights, abs=0.03)
    assert [one.weight for one in made.passes(7)] == [one.weight for one in made.passes(7)]


@pytest.mark.parametrize("k", [-1, 5, 1.5, True, "two"])
def test_a_wrong_number_of_ranks_per_step_is_refused(k):
    with pytest.raises(RecipeError, match="ranks_per_step"):
        recipe(method="nested_loss", method_options={"ranks_per_step": k})
