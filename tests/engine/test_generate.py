"""The engine's texts against lm-eval's own ``HFLM``, token by token."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_models import ANY_MODEL, PACKED, PLAIN, reference_texts, tiny, tokenizer, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.engine import EngineOptions, UnsupportedRequestError
from aurac.engine.inference import generate
from aurac.engine.reference import plainly_greedy
from aurac.engine.running import laid_out
from aurac.engine.tokens import GenerationLayout, GenerationRequest, StopTable
from aurac.errors import TaskError

Request = tuple[str, dict[str, Any]]


def make_requests(seed: int, *, header: bool) -> list[Request]:
    """Prompts of many lengths, stop strings of one and several tokens, several limits."""
    rng = random.Random(seed)
    common = words(rng, 40) + " " if header else ""
    stops = [["the"], [".", "\n\n"], ["Answer:"], [], "fox", ["\n"]]
    requests = [
        (
            common + "x" + words(rng, rng.randint(1, 12)),
            {"until": rng.choice(stops), "max_gen_toks": rng.choice([1, 7, 30])},
        )
        for _ in range(9)
    ]
    return [*requests, requests[0]]


def run(model: Any, requests: list[Request], tokens: str = "bytes", **options: Any) -> list[str]:
    built = [GenerationRequest.from_kwargs(context, kwargs) for context, kwargs in requests]
    return generate(model, tokenizer(tokens), built, options=EngineOptions(**options))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_models_write_as_hflm(kind: str) -> None:
    model = tiny(kind)
    for header in (False, True):
        requests = make_requests(1, header=header)
        theirs = reference_texts(model, requests)
        assert len(set(theirs)) > 5
        assert run(model, requests) == theirs


@pytest.mark.parametrize("kind", PLAIN)
def test_other_models_fall_back_to_their_own_generation(kind: str) -> None:
    model, requests = tiny(kind), make_requests(2, header=False)
    assert run(model, requests) == reference_texts(model, requests)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    **ANY_MODEL,
    seed=st.integers(0, 10**6),
    header=st.booleans(),
    max_length=st.integers(32, 256),
)
def test_any_prompts_are_continued_as_by_hflm(
    kind: str, weights: int, tokens: str, seed: int, header: bool, max_length: int
) -> None:
    model, requests = tiny(kind, weights), make_requests(seed, header=header)
    mine = run(model, requests, tokens, max_length=max_length)
    assert mine == reference_texts(model, requests, tokens=tokens, max_length=max_length)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    header=st.booleans(),
    cache_tokens=st.integers(1, 400),
    batch_size=st.integers(1, 8),
    batch_tokens=st.integers(1, 200),
)
def test_budgets_never_change_a_text(
    seed: int, header: bool, cache_tokens: int, batch_size: int, batch_tokens: int
) -> None:
    """Tiny budgets force eviction, refilling and resizing; the texts stay the same."""
    model, requests = tiny("llama"), make_requests(seed, header=header)
    tight = {
        "cache_tokens": cache_tokens,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
    }
    assert run(model, requests, **tight) == reference_texts(model, requests)


def test_left_truncation_makes_room_for_new_tokens() -> None:
    model, requests = tiny("llama"), make_requests(3, header=True)
    for packed in (True, False):
        mine = run(model, requests, max_length=50, packed=packed)
        assert mine == reference_texts(model, requests, max_length=50)


def test_eos_ends_a_text_and_is_not_in_it() -> None:
    """The model's most likely first token is declared to be the end: the text is empty."""
    model, tk = tiny("llama", 3), tokenizer()
    tokens = tk("fox", return_tensors="pt").input_ids
    first = int(model(tokens).logits[0, -1].argmax())
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [1, first]
    try:
        requests: list[Request] = [("fox", {"until": [], "max_gen_toks": 9})]
        assert run(model, requests) == reference_texts(model, requests) == [tk.decode([first])]
    finally:
        model.generation_config.eos_token_id = before


def test_a_repetition_penalty_of_the_model_is_kept() -> None:
    model = tiny("llama", 4)
    requests = make_requests(4, header=False)
    without = run(model, requests)
    model.generation_config.repetition_penalty = 1.8
    try:
        assert not plainly_greedy(model)
        penalised = run(model, requests)
        assert penalised == reference_texts(model, requests)
        assert penalised != without
    finally:
        model.generation_config.repetition_penalty = None
    assert plainly_greedy(model)


def test_one_layout_serves_every_model_state() -> None:
    requests = make_requests(5, header=True)
    built = [GenerationRequest.from_kwargs(*r) for r in requests]
    layout = laid_out(GenerationLayout, tiny("llama"), tokenizer(), built, EngineOptions())
    assert len(layout.prompts) == len(requests) - 1  # the duplicate is written once
    for seed in (0, 1):
        model, seen = tiny("llama", seed), []
        mine = generate(model, tokenizer(), layout, progress=seen.append)
        assert mine == reference_texts(model, requests)
        assert sum(seen) == len(requests)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"do_sample": True},
        {"temperature": 0.7},
        {"num_beams": 4},
        {"repetition_penalty": 2},
        {"max_gen_toks": 0},
    ],
)
def test_anything_but_greedy_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedRequestError):
        GenerationRequest.from_kwargs("fox", kwargs)


def test_kwargs_are_read_as_lm_eval_reads_them() -> None:
    made = GenerationRequest.from_kwargs
    assert made("a", {"until": "x", "do_sample": False, "temperature": 0.9}).until == ("x",)
    assert made("a", {"max_tokens": 5, "max_gen_toks": 7}).max_new_tokens == 7
    assert made("a", {}) == GenerationRequest("a", (), 256)


def test_no_room_for_the_prompt_is_named() -> None:
    with pytest.raises(TaskError, match="room for a prompt"):
        run(tiny("llama"), [("fox", {"max_gen_toks": 9})], max_length=9)
    with pytest.raises(TaskError, match="without tokens"):
        run(tiny("llama"), [("", {})], max_length=300)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_may_stop_never_misses_a_stop(data: st.DataObject) -> None:
    """Whenever HFLM's test turns true at a token, the cheap test had let that token through."""
    tk = tokenizer()
    stop = data.draw(st.sampled_from(["the", "\n\n", "Answer:", "é", "中", "</s>", " fox", "n"]))
    tokens = data.draw(st.lists(st.integers(0, len(tk) - 1), min_size=1, max_size=12))
    tokens += data.draw(st.sampled_from([[], tk(stop).input_ids]))
    table = StopTable(tk, (stop,))
    was = False
    for n in range(1, len(tokens) + 1):
        now = table.stopped(tokens[:n])
        assert was or not now or table.may_stop(tokens[n - 1])
        if now:
            break
        was = now
