"""The engine's texts, with drafts and without, against lm-eval's own ``HFLM``."""

from __future__ import annotations

import random

import pytest
import torch
from engine_models import (
    ANY_MODEL,
    PACKED,
    TOKENIZERS,
    Request,
    budgeted,
    make_requests,
    packed_alone,
    reference_texts,
    texts,
    tiny,
    tokenizer,
    words,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aurac.engine import decoding
from aurac.engine.attention import SlotCache
from aurac.engine.decoding import PromptLookup
from aurac.engine.tokens import StopTable, decodes_greedily, encode_prompts
from aurac.errors import TaskError


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    **ANY_MODEL,
    seed=st.integers(0, 10**6),
    header=st.booleans(),
    max_length=st.integers(32, 256),
)
@example(
    kind="granite", weights=0, tokens="metaspace", seed=999_999, header=True, max_length=115
)  # a line break that is a byte token, after bytes that are no text
def test_any_prompts_are_continued_as_by_hflm(
    kind: str, weights: int, tokens: str, seed: int, header: bool, max_length: int
) -> None:
    model, requests = tiny(kind, weights), make_requests(seed, header=header)
    mine = texts(budgeted(model, tokens, max_length), requests)
    assert mine == reference_texts(model, requests, tokens=tokens, max_length=max_length)


@pytest.mark.parametrize("setting", ["eos_token_id", "repetition_penalty"])
def test_a_models_own_settings_of_generation_are_kept(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token that it writes ends a text, and is in none; or repeated tokens are rare."""
    model, tk, requests = tiny("llama", 4), tokenizer(), make_requests(4, header=False)
    without = texts(budgeted(model), requests)
    ids = tk(requests[0][0], return_tensors="pt").input_ids
    first = int(model(ids).logits[0, -1].argmax())
    value = {"eos_token_id": [1, first], "repetition_penalty": 1.8}[setting]
    monkeypatch.setattr(model.generation_config, setting, value)
    assert texts(budgeted(model), requests) == reference_texts(model, requests) != without


def test_kwargs_are_read_as_lm_eval_reads_them() -> None:
    for kwargs in ({"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}, {"max_tokens": 0}):
        assert not decodes_greedily(kwargs)
    assert decodes_greedily({"until": "x", "do_sample": False, "temperature": 0.9})
    asked = [("a", {"max_tokens": 5, "max_gen_toks": 7}), ("a", {"until": "x"})]
    first, second = encode_prompts(tokenizer(), asked, 300)
    assert (first.max_new_tokens, first.until) == (7, ("</s>",))
    assert (second.max_new_tokens, second.until) == (256, ("x", "</s>"))


def test_no_room_for_the_prompt_is_named() -> None:
    with pytest.raises(TaskError, match="no room for a prompt"):
        texts(budgeted(tiny("llama"), max_length=9), [("fox", {"max_gen_toks": 9})])
    with pytest.raises(TaskError, match="no tokens"):
        texts(budgeted(tiny("llama"), max_length=300), [("", {})])


def test_answers_that_only_the_limit_ended_are_known() -> None:
    """Cut at the limit; stopped by a string, early or with the last token; HFLM's by length."""
    model = tiny("llama")
    whole = reference_texts(model, [("fox", {"until": [], "max_gen_toks": 12})])[0]
    stop, limits = whole[4:6], {"do_sample": False}
    asked: list[Request] = [("fox", {"until": [], "max_gen_toks": n, **limits}) for n in (1, 12)]
    asked += [("fox", {"until": [stop], "max_gen_toks": 12, **limits})]
    lm = packed_alone(budgeted(model))
    texts(lm, asked)
    assert lm.unfinished == [True, True, False]
    first = next(
        n
        for n in range(1, 13)
        if not texts(lm, [("fox", {"until": [stop], "max_gen_toks": n})]) or not lm.unfinished[0]
    )
    assert first > 1  # at this limit the stop string comes with the last token
    beams = {"num_beams": 2}
    lm = budgeted(model)
    texts(lm, [("fox", {"until": [], "max_gen_toks": 9, **beams}), *asked[:1]])
    assert lm.unfinished == [True, True]
    texts(lm, [("fox", {"until": [stop[0]], "max_gen_toks": 64, **beams})])
    assert lm.unfinished == [False]


SAMPLED = {"until": ["the"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.7, "top_k": 7}


def test_samples_beams_and_greedy_texts_are_hflms_in_one_call() -> None:
    model = tiny("llama")
    contexts = ("the quick brown fox", "Question: what is 42 Answer:", "over a lazy dog . b")
    greedy: list[Request] = [(context, {"max_gen_toks": 9}) for context in contexts]
    beams: list[Request] = [(context, {"max_gen_toks": 9, "num_beams": 3}) for context in contexts]
    sampled: list[Request] = [(context, SAMPLED) for context in contexts * 2]
    torch.manual_seed(1234)
    mine = texts(budgeted(model), [*greedy, *sampled])
    torch.manual_seed(1234)
    assert mine == reference_texts(model, greedy) + reference_texts(model, sampled)
    assert mine[3:6] != mine[6:]
    assert texts(budgeted(model), beams) == reference_texts(model, beams)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_text_stops_where_hflms_own_test_does(data: st.DataObject) -> None:
    """lm-eval's criteria see every token; ours may leave out those that cannot matter."""
    from lm_eval.models.utils_hf import MultiTokenEOSCriteria

    tk = tokenizer(data.draw(st.sampled_from(TOKENIZERS)))
    stop = data.draw(st.sampled_from(["the", "\n\n", "Answer:", "é", "中", "</s>", " fox", "\n"]))
    ending = tk.encode(stop, add_special_tokens=False)
    token = st.one_of(st.integers(0, len(tk) - 1), st.sampled_from(ending))
    tokens = data.draw(st.lists(token, min_size=1, max_size=12))
    tokens += data.draw(st.sampled_from([[], ending]))
    table, criteria = StopTable(tk, (stop,)), MultiTokenEOSCriteria(stop, tk, 0, 1)
    for n in range(1, len(tokens) + 1):
        stopped = criteria(torch.tensor([tokens[:n]]), None)
        assert table.stopped(tokens[:n]) == stopped
        if stopped:
            break


@pytest.mark.parametrize("kind", PACKED)
def test_packed_models_write_as_hflm_and_drafts_save_passes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny random models soon write in loops; each attention takes several tokens at once."""
    model, rng, passes, seen = tiny(kind), random.Random(7), [], []
    limits = (9, 60, 60, 60, 100)
    requests = [(words(rng, 20), {"until": [], "max_gen_toks": limit}) for limit in limits]
    whole, lm = decoding.forward, packed_alone(budgeted(model))
    lm.progress = seen.append
    monkeypatch.setattr(decoding, "forward", lambda *a: passes.append(len(a[1])) or whole(*a))
    drafted, with_drafts = texts(lm, requests), len(passes)
    assert sum(seen) == len(requests)
    stops = make_requests(1, header=True)
    assert texts(lm, stops) == reference_texts(model, stops)
    passes.clear()
    monkeypatch.setattr(decoding, "_ROWS", 0)
    assert texts(lm, requests) == drafted == reference_texts(model, requests)
    assert with_drafts < 0.9 * len(passes)


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
