"""Draft tokens: the right ones save passes, and no draft changes a text."""

from __future__ import annotations

import random

import pytest
from engine_models import (
    PACKED,
    Request,
    budgeted,
    make_requests,
    packed_alone,
    reference_texts,
    texts,
    tiny,
    words,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine import decoding
from aurac.engine.attention import SlotCache
from aurac.engine.decoding import PromptLookup


def test_one_wrong_draft_ends_the_drafting_until_two_are_right() -> None:
    lookup = PromptLookup([5, 6, 7] * 10)
    assert lookup.draft(6) == [5, 6, 7, 5, 6, 7]
    sizes = []
    for token in (9, 8, 1, 2, 3, 1, 2, 3, 1, 2):  # after 1, 2 comes 3, then 1: two are right
        lookup.add(token)
        sizes.append(len(lookup.draft(99)))
    assert sizes == [0, 0, 0, 0, 0, 0, 0, 0, 4, 8]


@pytest.mark.parametrize("kind", PACKED)
def test_drafts_save_passes_and_change_no_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny random models soon write in loops; each attention takes several tokens at once."""
    model, rng, passes = tiny(kind), random.Random(7), []
    requests: list[Request] = [
        (words(rng, 20), {"until": [], "max_gen_toks": limit}) for limit in (9, 60, 60, 60, 100)
    ]
    whole = decoding.forward
    monkeypatch.setattr(decoding, "forward", lambda *a: passes.append(len(a[1])) or whole(*a))
    drafted, with_drafts = texts(packed_alone(budgeted(model)), requests), len(passes)
    monkeypatch.setattr(decoding, "_ROWS", 0)
    plain, without = texts(packed_alone(budgeted(model)), requests), len(passes) - with_drafts
    assert drafted == plain == reference_texts(model, requests)
    assert with_drafts < 0.9 * without


class Wild(PromptLookup):
    """Drafts drawn at random, now and then half right, and as many as there is room for."""

    def draft(self, most: int) -> list[int]:
        rng = random.Random(len(self._tokens))
        found = super().draft(most)[: rng.randint(0, 4)]
        return [*found, *(rng.randrange(2, 40) for _ in range(max(0, most - len(found))))]


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["llama", "mistral", "gemma2", "gpt2", "opt"]),
    seed=st.integers(0, 10**6),
    header=st.booleans(),
    rows=st.integers(0, 200),
    budget=st.one_of(st.none(), st.integers(1, 900)),
)
def test_wrong_drafts_change_no_text(
    kind: str, seed: int, header: bool, rows: int, budget: int | None
) -> None:
    """And they take no more places than there are."""
    model, requests = tiny(kind), make_requests(seed, header=header, limits=(1, 7, 40))
    resize = SlotCache.resize

    def within(store: SlotCache, slots: int, width: int) -> None:
        assert budget is None or slots <= 1 or slots * width <= budget
        resize(store, slots, width)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PromptLookup", Wild)
        patch.setattr(decoding, "_ROWS", rows)
        patch.setattr(SlotCache, "resize", within)
        lm = packed_alone(budgeted(model, **({} if budget is None else {"cached": budget})))
        assert texts(lm, requests) == reference_texts(model, requests)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_no_draft_is_beyond_the_last_position(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that leaves room for its new tokens alone, in a model that knows no more places."""
    monkeypatch.setattr(decoding, "PromptLookup", Wild)
    model = tiny(kind)
    request: Request = (words(random.Random(1), 300), {"until": [], "max_gen_toks": 8})
    assert texts(budgeted(model), [request]) == reference_texts(model, [request])
