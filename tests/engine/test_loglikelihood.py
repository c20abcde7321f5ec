"""The engine's log-likelihoods against lm-eval's own ``HFLM`` and against arithmetic."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from engine_models import (
    ANY_MODEL,
    PACKED,
    PLAIN,
    TOKENIZERS,
    reference,
    reference_scores,
    tiny,
    tokenizer,
    words,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine import EngineOptions
from aurac.engine.inference import loglikelihoods
from aurac.engine.probe import probe
from aurac.engine.running import evaluating, laid_out
from aurac.engine.tokens import ScoringLayout, encode_pairs
from aurac.errors import TaskError

TOLERANCE = 1e-4


def make_pairs(seed: int) -> list[tuple[str, str]]:
    """Shared contexts and headers, empty contexts, trailing spaces, duplicates, long choices."""
    rng = random.Random(seed)
    header = words(rng, 20)
    contexts = [words(rng, rng.randint(1, 10)) + rng.choice(["", " ", "  \n"]) for _ in range(3)]
    contexts += [header + " " + words(rng, rng.randint(1, 5)) for _ in range(4)] + ["", "fox"]
    contexts = [c if c == "" or c.strip() else "fox" for c in contexts]
    pairs = [
        (context, rng.choice(["", " "]) + "x" + words(rng, rng.randint(1, 4)))
        for context in contexts
        for _ in range(rng.randint(1, 4))
    ]
    return [*pairs, *pairs[:2]]


def greedy_pairs(model: object, seed: int) -> list[tuple[str, str]]:
    """Pairs whose continuation is what the model itself says, so that greedy flags are True."""
    tk, rng = tokenizer(), random.Random(seed)
    pairs = []
    while len(pairs) < 3:
        context = words(rng, 5).strip()
        tokens = tk(context, return_tensors="pt").input_ids
        out = model.generate(tokens, max_new_tokens=3, do_sample=False)
        text = tk.decode(out[0, tokens.shape[1] :])
        whole = tk(context + text).input_ids
        if text.strip() and whole == out[0].tolist():
            pairs.append((context, text))
    return pairs


def assert_same(mine: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> None:
    assert [flag for _, flag in mine] == [flag for _, flag in theirs]
    np.testing.assert_allclose(
        [v for v, _ in mine], [v for v, _ in theirs], atol=TOLERANCE, rtol=1e-5
    )


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("max_length", [256, 24])
def test_packed_models_score_as_hflm(kind: str, max_length: int) -> None:
    model = tiny(kind)
    pairs = make_pairs(1) + greedy_pairs(model, 5)
    theirs = reference_scores(model, pairs, max_length=max_length)
    assert max_length < 256 or sum(flag for _, flag in theirs) >= 3
    for batch_tokens in (16, 1024):
        options = EngineOptions(max_length=max_length, batch_tokens=batch_tokens)
        assert_same(loglikelihoods(model, tokenizer(), pairs, options=options), theirs)
    with evaluating(model):
        assert probe(model).packed


@pytest.mark.parametrize("kind", PLAIN)
def test_other_models_fall_back_to_plain_rows(kind: str) -> None:
    model = tiny(kind)
    pairs = make_pairs(2)
    mine = loglikelihoods(model, tokenizer(), pairs, options=EngineOptions(batch_tokens=64))
    theirs = reference_scores(model, pairs)
    np.testing.assert_allclose([v for v, _ in mine], [v for v, _ in theirs], atol=5e-4, rtol=1e-5)
    with evaluating(model):
        assert not probe(model).packed


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    **ANY_MODEL,
    seed=st.integers(0, 10**6),
    limit=st.integers(30, 80),
    budget=st.integers(1, 300),
)
def test_any_requests_score_as_hflm(
    kind: str, weights: int, tokens: str, seed: int, limit: int, budget: int
) -> None:
    model, pairs = tiny(kind, weights), make_pairs(seed)
    options = EngineOptions(max_length=limit, batch_tokens=budget)
    theirs = reference_scores(model, pairs, tokens=tokens, max_length=limit)
    assert_same(loglikelihoods(model, tokenizer(tokens), pairs, options=options), theirs)


# What tokenizers join, cut, move or add at the place where a choice begins.
PIECES = ["", " ", "  ", "\n", "<s>", "</s>", "fo", "x", "fox", " the", "é", "€", "中", ".", "Ans",
          "wer:", "é"[:1], "\u0301", "\u200d", "▁", "42", "4", "\t"]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(tokens=st.sampled_from(TOKENIZERS), pairs=st.lists(st.tuples(texts, texts), min_size=1))
def test_any_seam_between_context_and_choice_is_hflms(
    tokens: str, pairs: list[tuple[str, str]]
) -> None:
    """Token by token, and where HFLM has nothing to score the request is refused."""
    lm, tk = reference(tiny("llama"), tokens), tokenizer(tokens)
    prefix = [lm.prefix_token_id]
    good = []
    for context, choice in pairs:
        if context == "":
            rest = lm.tok_encode(choice, add_special_tokens=False)
            split = (rest[:1], rest[1:]) if rest[:1] == prefix else (prefix, rest)
        else:
            split = lm._encode_pair(context, choice)
        if all(split) and (context == "" or context.strip()):
            good.append(((context, choice), (list(split[0]), list(split[1]))))
        else:
            with pytest.raises(TaskError):
                encode_pairs(tk, [(context, choice)])
    mine = encode_pairs(tk, [pair for pair, _ in good])
    assert [(list(a), list(b)) for a, b in mine] == [split for _, split in good]


def test_seam_between_context_and_choice_is_hflms() -> None:
    """Merges across the seam: 'Answer' + ':', 'fo' + 'x', an unfinished character."""
    pairs = [
        ("Question", ": what"),
        ("the quick fo", "x jumps"),
        ("é", "€"),
        ("fox \n", "\nfox"),
        ("<s>the fox", " jumps"),
        ("the", " quick"),
        ("the quick", " brown"),
        ("", "<s>fox"),
    ]
    model = tiny("llama")
    assert_same(loglikelihoods(model, tokenizer(), pairs), reference_scores(model, pairs))


def test_one_layout_serves_every_model_state_and_every_path() -> None:
    pairs = make_pairs(3)
    layout = laid_out(ScoringLayout, tiny("llama"), tokenizer(), pairs, EngineOptions())
    for seed in (0, 1):
        model = tiny("llama", seed)
        theirs = reference_scores(model, pairs)
        for packed in (True, False):
            options = EngineOptions(packed=packed)
            assert_same(loglikelihoods(model, tokenizer(), layout, options=options), theirs)


def test_result_is_the_sum_of_log_softmax_by_hand() -> None:
    """Context 'fox', choice ' the': log p of each token from a plain forward pass."""
    model, tk = tiny("llama"), tokenizer()
    whole, context = tk("fox the dog").input_ids, tk("fox").input_ids
    with torch.no_grad():
        table = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    by_hand = sum(float(table[i - 1, whole[i]]) for i in range(len(context), len(whole)))
    ((value, _),) = loglikelihoods(model, tk, [("fox", " the dog")])
    assert value == pytest.approx(by_hand, abs=1e-4)


def test_progress_adds_up_and_the_model_is_left_as_it_was() -> None:
    model, seen = tiny("llama"), []
    model.train()
    before = model.config._attn_implementation
    loglikelihoods(model, tokenizer(), make_pairs(4), progress=seen.append)
    assert sum(seen) == len(make_pairs(4))
    assert model.training
    assert model.config._attn_implementation == before
    model.eval()


def test_half_precision_picks_as_full_precision_does() -> None:
    import copy

    pairs = make_pairs(6)
    full = loglikelihoods(tiny("llama"), tokenizer(), pairs)
    half = loglikelihoods(copy.deepcopy(tiny("llama")).bfloat16(), tokenizer(), pairs)
    scale = np.abs([v for v, _ in full]).mean()
    assert np.abs(np.subtract([v for v, _ in full], [v for v, _ in half])).mean() < 0.05 * scale


@pytest.mark.parametrize("pair", [("  ", "fox"), ("fox", ""), ("", "")])
def test_requests_without_tokens_are_named(pair: tuple[str, str]) -> None:
    with pytest.raises(TaskError, match=r"white space|no token"):
        loglikelihoods(tiny("llama"), tokenizer(), [pair])


def test_a_choice_longer_than_the_model_is_named() -> None:
    with pytest.raises(TaskError, match="at most the model's length, 4"):
        ScoringLayout.build(tokenizer(), [("fox", " the quick brown fox jumps")], 4)


def test_nothing_to_score() -> None:
    assert loglikelihoods(tiny("llama"), tokenizer(), []) == []
