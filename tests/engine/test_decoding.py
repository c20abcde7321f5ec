"""Guesses at the next tokens: the right ones, fewer passes, and never another text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_models import PACKED, reference_texts, tiny, tokenizer, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine import EngineOptions, decoding
from aurac.engine import decoding as drafts
from aurac.engine.attention import SlotCache
from aurac.engine.counts import Record, recording
from aurac.engine.decoding import LONGEST, PromptLookup, shortened
from aurac.engine.inference import generate
from aurac.engine.tokens import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

Request = tuple[str, dict[str, Any]]


def looked_up(tokens: Sequence[int], most: int) -> list[int]:
    """By hand: what followed the last earlier place of the longest ending, going on in itself."""
    for n in (4, 3, 2):
        places = [i for i in range(n, len(tokens)) if list(tokens[i - n : i]) == list(tokens[-n:])]
        if len(tokens) >= n and places:
            text = list(tokens)
            for i in range(most):
                text.append(text[places[-1] + i])
            return text[len(tokens) :]
    return []


def right_before(tokens: Sequence[int]) -> int:
    """How many of the last tokens in a row would have been guessed."""
    right = 0
    while right < len(tokens) and looked_up(tokens[: len(tokens) - right - 1], 1) == [
        tokens[len(tokens) - right - 1]
    ]:
        right += 1
    return right


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=25), st.integers(0, 20))
def test_a_guess_is_what_followed_before(tokens: list[int], most: int) -> None:
    trusted = max(0, 4 * (right_before(tokens) - 1))
    assert PromptLookup(tokens).draft(most) == looked_up(tokens, min(most, trusted, LONGEST))


def test_one_wrong_guess_ends_the_guessing_until_two_are_right() -> None:
    lookup = PromptLookup([5, 6, 7] * 10)
    assert lookup.draft(6) == [5, 6, 7, 5, 6, 7]
    sizes = []
    for token in (9, 8, 1, 2, 3, 1, 2, 3, 1, 2):  # after 1, 2 comes 3, then 1: two are right
        lookup.add(token)
        sizes.append(len(lookup.draft(99)))
    assert sizes == [0, 0, 0, 0, 0, 0, 0, 0, 4, 7]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=20), st.integers(0, 40))
def test_drafts_share_the_room_evenly(sizes: list[int], room: int) -> None:
    given_to = [len(d) for d in shortened([[0] * n for n in sizes], room)]
    cut = max(given_to)
    assert given_to == [min(n, cut) for n in sizes]
    assert sum(given_to) <= room
    assert cut == max(sizes) or sum(min(n, cut + 1) for n in sizes) > room


def requests_of(seed: int) -> list[Request]:
    """Prompts that share a header or do not, with stop strings and limits of several lengths."""
    rng = random.Random(seed)
    common = rng.choice(["", words(rng, 40) + " "])
    stops = [["the"], [".", "\n\n"], [], [], ["\n"]]
    return [
        (
            common + "x" + words(rng, rng.randint(1, 12)),
            {"until": rng.choice(stops), "max_gen_toks": rng.choice([1, 2, 7, 40, 40])},
        )
        for _ in range(rng.randint(1, 12))
    ]


def written(model: Any, requests: list[Request], **options: Any) -> tuple[list[str], Record]:
    built = [GenerationRequest.from_kwargs(context, kwargs) for context, kwargs in requests]
    with recording() as record:
        texts = generate(model, tokenizer(), built, options=EngineOptions(**options))
    assert record.paths == {"packed"}
    return texts, record


@pytest.mark.parametrize("kind", PACKED)
def test_guesses_save_passes_and_change_no_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny random models soon write in loops; each attention takes several tokens at once."""
    model = tiny(kind)
    rng = random.Random(7)
    limits = [9, 60, 60, 60, 100]
    requests: list[Request] = [
        (words(rng, 20), {"until": [], "max_gen_toks": limit}) for limit in limits
    ]
    guessed, record = written(model, requests)
    monkeypatch.setattr(decoding, "ROWS", 0)
    plain, without = written(model, requests)
    assert guessed == plain == reference_texts(model, requests)
    assert record.passes < 0.9 * without.passes
    assert record.distinct == without.distinct == without.computed
    assert record.computed < 1.2 * record.distinct  # wrong guesses are few


class Wild(PromptLookup):
    """Guesses drawn at random, now and then half right, and as many as there is room for."""

    def draft(self, most: int) -> list[int]:
        rng = random.Random(len(self._tokens))
        found = super().draft(most)[: rng.randint(0, 4)]
        return [*found, *(rng.randrange(2, 40) for _ in range(max(0, most - len(found))))]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["llama", "mistral", "gemma2", "gpt2", "opt"]),
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 200),
    budget=st.one_of(st.none(), st.integers(1, 900)),
)
def test_wrong_guesses_change_no_text(kind: str, seed: int, rows: int, budget: int | None) -> None:
    """Nor what is counted of the texts; and they take no more places than there are."""
    model, requests = tiny(kind), requests_of(seed)
    resize = SlotCache.resize

    def within(store: SlotCache, slots: int, width: int) -> None:
        if budget is not None and slots > 1:
            assert slots * width <= budget
        resize(store, slots, width)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "ROWS", 0)
        plain, without = written(model, requests)
        patch.setattr(decoding, "PromptLookup", Wild)
        patch.setattr(decoding, "ROWS", rows)
        patch.setattr(SlotCache, "resize", within)
        texts, record = written(model, requests, cache_tokens=budget)
    assert texts == plain == reference_texts(model, requests)
    assert (record.distinct, record.near_ties) == (without.distinct, without.near_ties)


def test_a_text_ends_within_guesses_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the text is among what was guessed, and so is more that would have followed."""
    model, tk = tiny("llama", 3), tokenizer()
    request: Request = ("fox a lazy dog", {"until": [], "max_gen_toks": 20})
    prompt = tk(request[0]).input_ids
    with torch.inference_mode():
        rest: list[int] = []
        for _ in range(20):
            rest.append(int(model(torch.tensor([[*prompt, *rest]])).logits[0, -1].argmax()))
    place = next(i for i in range(3, 20) if rest[i] not in rest[:i])

    class Knowing(PromptLookup):
        def draft(self, most: int) -> list[int]:
            return rest[len(self._tokens) - len(prompt) :][:most]

    monkeypatch.setattr(decoding, "PromptLookup", Knowing)
    whole, record = written(model, [request])
    assert whole == [tk.decode(rest)]
    assert record.passes == 4  # the prompt, then 8, 8 and 3 tokens
    monkeypatch.setattr(model.generation_config, "eos_token_id", [1, rest[place]])
    assert written(model, [request])[0] == reference_texts(model, [request])
    monkeypatch.setattr(model.generation_config, "eos_token_id", 1)
    stopped: Request = (request[0], {"until": [tk.decode([rest[place]])], "max_gen_toks": 20})
    assert written(model, [stopped])[0] == reference_texts(model, [stopped])


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_no_guess_is_beyond_the_last_position(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that leaves room for its new tokens alone, in a model that knows no more places."""
    monkeypatch.setattr(decoding, "PromptLookup", Wild)
    model = tiny(kind)
    request: Request = (words(random.Random(1), 300), {"until": [], "max_gen_toks": 8})
    assert written(model, [request])[0] == reference_texts(model, [request])


def test_a_budget_without_room_for_guesses_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts.PromptLookup, "draft", lambda *_: pytest.fail("a guess"))
    requests: list[Request] = [("a b a b a b a b", {"until": [], "max_gen_toks": 12})]
    built = [GenerationRequest.from_kwargs(*r) for r in requests]
    options = EngineOptions(cache_tokens=1)
    assert generate(tiny("llama"), tokenizer(), built, options=options)
