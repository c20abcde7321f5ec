"""Running a model: fused LoRA layers, scores from logits, budgets, modes."""

from __future__ import annotations

import copy
import random
from statistics import median
from typing import Any

import pytest
import torch
from engine_models import (
    assert_same,
    budgeted,
    lora,
    packed_alone,
    reference_scores,
    reference_texts,
    scores,
    texts,
    tiny,
    words,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine import running
from aurac.engine.layers import fewer_operations
from aurac.engine.passes import Sizes
from aurac.engine.running import score_logits


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # the second has biases
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rank", [1, 5])
def test_fused_layers_give_pefts_own_result(rank: int, dora: bool, family: str) -> None:
    model, tokens = lora(tiny(family), rank, use_dora=dora), torch.arange(40).view(2, 20)
    with torch.inference_mode():
        expected = model(tokens).logits
        with fewer_operations(model):
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
            changed = [m for m in model.modules() if "forward" in vars(m)]
            assert len(changed) == 3 * 7
        assert not [m for m in model.modules() if "forward" in vars(m)]
        torch.testing.assert_close(model(tokens).logits, expected, atol=0, rtol=0)


@pytest.mark.parametrize(("dora", "limit"), [(False, 1.25), (True, 1.4)])
def test_fused_layers_on_a_16_bit_base_are_nearly_as_close_to_the_truth_as_pefts(
    dora: bool, limit: float
) -> None:
    """Both against the same numbers in float64, over sixteen models: their median and the worst."""
    ratios = []
    for seed in range(16):
        half = lora(tiny("llama", seed), 4, torch.bfloat16, seed, use_dora=dora)
        exact, tokens = copy.deepcopy(half).double(), torch.arange(60).view(3, 20)
        with torch.inference_mode():
            truth = exact(tokens).logits
            theirs = (half(tokens).logits - truth).norm()
            with fewer_operations(half):
                ratios.append(float((half(tokens).logits - truth).norm() / theirs))
    assert median(ratios) < limit
    assert max(ratios) < 1.8


def test_disabled_hooked_and_special_layers_are_left_to_peft() -> None:
    model, tokens = lora(tiny("llama"), 4), torch.arange(20)[None]
    layer = model.model.layers[0].mlp.up_proj
    layer.lora_A["a"].register_forward_hook(lambda _m, _i, out: out * 3)
    model.model.layers[1].mlp.up_proj.enable_adapters(enabled=False)
    from peft.tuners.lora.config import KasaConfig

    kasa = lora(tiny("llama"), 4, kasa_config=KasaConfig(), init_lora_weights=True)
    with torch.inference_mode():
        expected, special = model(tokens).logits, kasa(tokens).logits
        with fewer_operations(model), fewer_operations(kasa):
            assert "forward" not in vars(layer)
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(kasa(tokens).logits, special, atol=0, rtol=0)


@settings(deadline=None)
@given(
    st.integers(1, 70).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=80))
    ),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scores_are_log_softmax_and_hits_are_argmax_with_ties(
    shape: tuple[int, list[int]], seed: int, dtype: torch.dtype
) -> None:
    """Whole numbers from 0 to 3 over 9 tokens: most rows have several best ones."""
    n, rows = shape
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 4, (n, 9), generator=draw).to(dtype)
    logits[::5, 3] = -torch.inf  # how some models rule a token out
    row = torch.tensor(rows, dtype=torch.long)
    token = torch.randint(0, 9, (len(rows),), generator=draw)
    logprob, hit = score_logits(logits, row, token)
    expected = torch.log_softmax(logits.double(), dim=-1)[row, token]
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-6, atol=1e-6)
    assert hit.tolist() == (logits.argmax(dim=-1)[row] == token).tolist()


def up_to(**most: int) -> dict[str, Any]:
    return {name: st.integers(1, value) for name, value in most.items()}


SIZES = up_to(align=9, queries=99, scores=9999, width=40, rows=40)
SIZES |= {"tokens": st.sampled_from([64, 999]), "similar": st.sampled_from([0.01, 0.5, 1.0])}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["llama", "gemma2", "gpt2"]),
    sizes=st.builds(Sizes, **SIZES),
    budgets=st.fixed_dictionaries({}, optional=up_to(cached=400, sequences=8, tokens=200)),
    seed=st.integers(0, 10**6),
)
def test_how_work_is_cut_changes_no_answer(
    kind: str, sizes: Sizes, budgets: dict[str, int], seed: int
) -> None:
    """As on any device: idle slots, padded lengths, attention in pieces.

    Tiny budgets force eviction, refilling and resizing.
    """
    rng, model = random.Random(seed), tiny(kind)
    header = words(rng, 30) + " "
    contexts = ["a " + words(rng, 1 + 3 * i) for i in range(6)]  # HFLM refuses a blank one
    pairs = [(header * (i % 2) + text, " x" + words(rng, 2)) for i, text in enumerate(contexts)]
    prompts = [(header + text, {"until": ["the"], "max_gen_toks": 9}) for text in contexts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "CPU", sizes)
        lm = packed_alone(budgeted(model, **budgets))
        mine = scores(lm, pairs)
        assert texts(lm, prompts) == reference_texts(model, prompts)
    assert_same(mine, reference_scores(model, pairs))
