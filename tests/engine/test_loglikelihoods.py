"""The engine's log-likelihoods against lm-eval's own ``HFLM`` and against arithmetic."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from engine_models import (
    ANY_MODEL,
    PACKED,
    PLAIN,
    TOKENIZERS,
    asked,
    assert_same,
    budgeted,
    packed_alone,
    reference,
    reference_scores,
    reference_texts,
    scores,
    tiny,
    tokenizer,
    words,
)
from engine_models import texts as texts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine.probe import probe
from aurac.engine.tokens import ScoringLayout, encode_pairs, model_input
from aurac.errors import CellError, TaskError


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
    """Pairs whose continuation is what the model itself says, so that some are greedy."""
    rng = random.Random(seed)
    contexts = [words(rng, 5).strip() for _ in range(40)]
    said = reference_texts(model, [(context, {"max_gen_toks": 2}) for context in contexts])
    return [pair for pair in zip(contexts, said, strict=True) if pair[1].strip()]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("max_length", [256, 24])
def test_packed_models_score_as_hflm(kind: str, max_length: int) -> None:
    """And it leaves the model as it was."""
    model = tiny(kind)
    before, pairs = model.config._attn_implementation, make_pairs(1) + greedy_pairs(model, 5)
    theirs = reference_scores(model, pairs, max_length=max_length)
    assert max_length < 256 or sum(flag for _, flag in theirs) >= 3
    for tokens in (16, 1024):
        lm, done = packed_alone(budgeted(model, max_length=max_length, tokens=tokens)), []
        lm.progress = done.append
        assert_same(scores(lm, pairs), theirs)
        assert sum(done) == len(pairs)
        assert len(done) > 2 or tokens > 16
        assert_same(scores(lm, pairs), theirs)  # from what was tokenised and kept
    assert (model.config._attn_implementation, len(model._forward_hooks)) == (before, 0)


@pytest.mark.parametrize("kind", PLAIN)
def test_hflm_answers_for_other_models(kind: str) -> None:
    model, pairs, lm = tiny(kind), make_pairs(2), budgeted(tiny(kind))
    assert scores(lm, pairs) == reference_scores(model, pairs)
    prompts = [(context + "x", {"until": [], "max_gen_toks": 7}) for context, _ in pairs]
    assert texts_of(lm, prompts) == reference_texts(model, prompts)
    with pytest.raises(AttributeError, match="packed"):
        scores(packed_alone(lm), pairs)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    **ANY_MODEL,
    seed=st.integers(0, 10**6),
    limit=st.integers(50, 90),  # HFLM asserts that every continuation fits
    budget=st.integers(1, 300),
)
def test_any_requests_score_as_hflm(
    kind: str, weights: int, tokens: str, seed: int, limit: int, budget: int
) -> None:
    model, pairs = tiny(kind, weights), make_pairs(seed)
    theirs = reference_scores(model, pairs, tokens=tokens, max_length=limit)
    assert_same(scores(budgeted(model, tokens, limit, tokens=budget), pairs), theirs)


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
            with pytest.raises(TaskError, match=r"white space|no token"):
                encode_pairs(tk, [(context, choice)], *prefix)
    assert encode_pairs(tk, [pair for pair, _ in good], *prefix) == [split for _, split in good]


@pytest.mark.parametrize("header", [True, False])
def test_one_tokenisation_serves_every_model_state(header: bool) -> None:
    """With what all requests of a task begin with, which other states have to compute anew."""
    start = words(random.Random(4), 60) + " " if header else ""
    pairs = [(f"{start}{context}", choice) for context, choice in make_pairs(3) if context.strip()]
    model = copy.deepcopy(tiny("llama"))
    lm = budgeted(model)
    lm.prepare([])
    for seed in (0, 1):
        model.load_state_dict(tiny("llama", seed).state_dict())
        lm.forget()
        theirs = reference_scores(model, pairs)
        lm.prepare(instances := asked("loglikelihood", pairs))
        assert_same(lm.loglikelihood(instances[:5]), theirs[:5])
        assert_same(lm.loglikelihood(instances[5:]), theirs[5:])  # another block
        assert bool(len(lm._header)) is header


def test_a_choice_longer_than_the_model_is_named() -> None:
    with pytest.raises(TaskError, match="longer than the model's 4"):
        model_input([1], [1, 2, 3, 4, 5], 4)


def test_where_memory_does_not_suffice_less_is_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passes of more than 140 tokens fail, so that those of at most 128 answer."""
    model, pairs, seen, most = tiny("llama"), make_pairs(7), [], [140]
    lm = budgeted(model, tokens=512)
    lm.progress = seen.append
    with torch.inference_mode():
        probe(model)
    expected, forward = reference_scores(model, pairs), type(model).forward

    def small(self: object, *args: object, input_ids: torch.Tensor, **kwargs: object) -> object:
        if input_ids.numel() > most[0]:
            raise RuntimeError("CUDA out of memory") if most[0] else MemoryError
        return forward(self, *args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", small)
    assert_same(scores(lm, pairs), expected)
    assert (lm.budgets.tokens, sum(seen)) == (128, len(pairs))
    most[0] = 0
    with pytest.raises(MemoryError):
        scores(lm, pairs)


def with_bias(values: dict[int, float]) -> object:
    """A model that adds these to its logits."""
    model = copy.deepcopy(tiny("llama"))
    bias = torch.zeros(300)
    bias[list(values)] = torch.tensor(list(values.values()))
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: logits + bias)
    return model


INFINITY = float("inf")


def test_what_is_no_number_is_refused_and_a_token_may_be_ruled_out_unless_it_is_scored() -> None:
    for values in ({7: float("nan")}, {7: INFINITY}, dict.fromkeys(range(300), -INFINITY)):
        lm = budgeted(with_bias(values))
        with pytest.raises(CellError, match="no finite number"):
            scores(lm, [("fox", " dog")])
        with pytest.raises(CellError, match="no finite number"):
            texts_of(lm, [("fox", {"max_gen_toks": 3})])
    ruled_out = budgeted(with_bias({299: -INFINITY}))
    assert scores(ruled_out, [("fox", " dog")])
    assert texts_of(ruled_out, [("fox", {"max_gen_toks": 3})])
    (token,) = tokenizer()(" dog").input_ids[:1]
    with pytest.raises(CellError, match="log-likelihood -inf"):
        scores(budgeted(with_bias({token: -INFINITY})), [("fox", " dog")])


@pytest.mark.parametrize("fixed", [True, False])
def test_every_distinct_token_is_computed_once(fixed: bool) -> None:
    """Thirty documents of four choices behind a header, its own or a common one.

    A header of 300, 30 contexts of 20, 4 choices of 3 read tokens: 300 + 30 * 32 = 1260.
    """
    rng = np.random.default_rng(0)
    common, encoded = rng.integers(5, 99, 300).tolist(), []
    for _ in range(30):
        header = common if fixed else rng.integers(5, 99, 300).tolist()
        context = header + rng.integers(5, 99, 20).tolist()
        encoded += [(context, rng.integers(5, 99, 4).tolist()) for _ in range(4)]
    layout = ScoringLayout.build(encoded, 4096)
    plan = layout.plan(512)
    computed = sum(len(step.tokens) for step in plan.steps)
    if fixed:
        assert computed <= 1260
    assert layout.tree.n_nodes <= computed <= 1.02 * layout.tree.n_nodes
    assert plan.cached == (300 if fixed else 0)
    assert max(len(step.tokens) for step in plan.steps) <= 512
    pairs = np.concatenate([step.pair for step in plan.steps])
    assert sorted(pairs.tolist()) == list(range(len(layout.pair_node)))
    assert layout.plan(512) is plan
