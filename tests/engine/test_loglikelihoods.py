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
    budgeted,
    packed_alone,
    reference,
    reference_scores,
    scores,
    tiny,
    tokenizer,
    words,
)
from engine_models import texts as texts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine.probe import probe
from aurac.engine.tokens import encode_pairs, model_input
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
    np.testing.assert_allclose([v for v, _ in mine], [v for v, _ in theirs], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("max_length", [256, 24])
def test_packed_models_score_as_hflm(kind: str, max_length: int) -> None:
    model = tiny(kind)
    pairs = make_pairs(1) + greedy_pairs(model, 5)
    theirs = reference_scores(model, pairs, max_length=max_length)
    assert max_length < 256 or sum(flag for _, flag in theirs) >= 3
    for tokens in (16, 1024):
        lm = packed_alone(budgeted(model, max_length=max_length, tokens=tokens))
        assert_same(scores(lm, pairs), theirs)
        assert_same(scores(lm, pairs), theirs)  # from what was tokenised and kept


@pytest.mark.parametrize("kind", PLAIN)
def test_hflm_answers_for_other_models(kind: str) -> None:
    model, pairs = tiny(kind), make_pairs(2)
    lm = budgeted(model)
    assert scores(lm, pairs) == reference_scores(model, pairs)
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
        lm.prepare(lm_instances := [*map(_instance, pairs)])
        assert_same(lm.loglikelihood(lm_instances[:5]), theirs[:5])
        assert_same(lm.loglikelihood(lm_instances[5:]), theirs[5:])  # another block
        assert bool(len(lm._header)) is header


def _instance(pair: tuple[str, str]) -> object:
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, pair, 0)


def test_result_is_the_sum_of_log_softmax_by_hand() -> None:
    """Context 'fox', choice ' the dog': log p of each token from a plain forward pass."""
    model, tk = tiny("llama"), tokenizer()
    whole, context = tk("fox the dog").input_ids, tk("fox").input_ids
    with torch.no_grad():
        table = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    by_hand = sum(float(table[i - 1, whole[i]]) for i in range(len(context), len(whole)))
    ((value, _),) = scores(budgeted(model), [("fox", " the dog")])
    assert value == pytest.approx(by_hand, abs=1e-4)


def test_progress_adds_up_and_the_model_is_left_as_it_was() -> None:
    model, seen = tiny("llama"), []
    before = model.config._attn_implementation
    lm = budgeted(model, tokens=20)
    lm.progress = seen.append
    scores(lm, make_pairs(4))
    assert sum(seen) == len(make_pairs(4))
    assert len(seen) > 2
    assert model.config._attn_implementation == before
    assert not model._forward_hooks


def test_half_precision_scores_as_full_precision_does() -> None:
    pairs = make_pairs(6)
    full = scores(budgeted(tiny("llama")), pairs)
    half = scores(budgeted(copy.deepcopy(tiny("llama")).bfloat16()), pairs)
    scale = np.abs([v for v, _ in full]).mean()
    assert np.abs(np.subtract([v for v, _ in full], [v for v, _ in half])).mean() < 0.05 * scale


def test_a_choice_longer_than_the_model_is_named() -> None:
    with pytest.raises(TaskError, match="longer than the model's 4"):
        model_input([1], [1, 2, 3, 4, 5], 4)


def test_nothing_to_score() -> None:
    assert budgeted(tiny("llama")).loglikelihood([]) == []


def test_where_memory_does_not_suffice_less_is_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passes of more than 140 tokens fail, so that those of at most 128 answer."""
    model, pairs = tiny("llama"), make_pairs(7)
    lm = budgeted(model, tokens=512)
    seen: list[int] = []
    lm.progress = seen.append
    with torch.inference_mode():
        probe(model)
    forward = type(model).forward

    def small(self: object, *args: object, input_ids: torch.Tensor, **kwargs: object) -> object:
        if input_ids.numel() > 140:
            raise RuntimeError("CUDA out of memory")
        return forward(self, *args, input_ids=input_ids, **kwargs)

    expected = reference_scores(model, pairs)
    monkeypatch.setattr(type(model), "forward", small)
    assert_same(scores(lm, pairs), expected)
    assert lm.budgets.tokens == 128
    assert sum(seen) == len(pairs)
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        scores(lm, pairs)


def with_bias(values: dict[int, float]) -> object:
    """A model that adds these to its logits."""
    model = copy.deepcopy(tiny("llama"))
    old = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features, bias=True)
    with torch.no_grad():
        head.weight.copy_(old.weight)
        head.bias.zero_()
        for token, value in values.items():
            head.bias[token] = value
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinity_is_refused(value: float) -> None:
    lm = budgeted(with_bias({7: value}))
    with pytest.raises(CellError, match="no finite number"):
        scores(lm, [("fox", " dog")])
    with pytest.raises(CellError, match="no finite number"):
        texts_of(lm, [("fox", {"max_gen_toks": 3})])


def test_a_row_without_any_token_is_refused_but_tokens_may_be_ruled_out() -> None:
    nothing = budgeted(with_bias(dict.fromkeys(range(300), float("-inf"))))
    with pytest.raises(CellError, match="no finite number"):
        scores(nothing, [("fox", " dog")])
    with pytest.raises(CellError, match="no finite number"):
        texts_of(nothing, [("fox", {"max_gen_toks": 3})])
    ruled_out = budgeted(with_bias({299: float("-inf")}))
    assert scores(ruled_out, [("fox", " dog")])
    assert texts_of(ruled_out, [("fox", {"max_gen_toks": 3})])
    (token,) = tokenizer()(" dog").input_ids[:1]
    with pytest.raises(CellError, match="log-likelihood -inf"):
        scores(budgeted(with_bias({token: float("-inf")})), [("fox", " dog")])
