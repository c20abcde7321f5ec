"""Sampled texts against lm-eval's own ``HFLM`` with their seeds, and exact probabilities."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from engine_models import reference_texts, tiny, tokenizer

from aurac.engine import EngineOptions, UnsupportedRequestError
from aurac.engine.counts import recording
from aurac.engine.inference import generate
from aurac.engine.sampling import plainly_sampling
from aurac.engine.tokens import GenerationRequest

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.8, "top_k": 0},
    {"temperature": 1.7, "top_k": 7, "min_p": 0.02},
]
CONTEXTS = ("the quick brown fox", "Question: what is 42 Answer:", "over a lazy dog . b")


def sampled(model: Any, asked: list[tuple[str, dict[str, Any], int]], **options: Any) -> list[str]:
    built = [GenerationRequest.from_kwargs(*one) for one in asked]
    return generate(model, tokenizer(), built, options=EngineOptions(**options))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_sample_is_what_hflm_gives_with_its_seed(kind: str, settings: dict[str, Any]) -> None:
    model = tiny(kind)
    kwargs = {"until": ["the"], "max_gen_toks": 12, "do_sample": True, **settings}
    theirs = []
    for seed, context in enumerate(CONTEXTS):
        torch.manual_seed(seed)
        theirs += reference_texts(model, [(context, dict(kwargs))])
    assert len(set(theirs)) > 1
    asked = [(context, kwargs, seed) for seed, context in enumerate(CONTEXTS)]
    assert sampled(model, asked) == theirs


def test_a_sample_depends_on_its_seed_alone() -> None:
    model, kwargs = tiny("llama"), {"do_sample": True, "temperature": 1.0, "max_gen_toks": 9}
    asked = [(context, kwargs, 10 * n + j) for n, context in enumerate(CONTEXTS) for j in range(4)]
    together = sampled(model, asked)
    assert len(set(together)) == len(asked)
    assert [sampled(model, [one])[0] for one in asked] == together
    for options in ({"batch_size": 3}, {"batch_tokens": 16}, {"cache_tokens": 64}):
        assert sampled(model, asked, **options) == together
    assert sampled(model, asked[::-1]) == together[::-1]
    # Beside greedy requests both are what they are alone.
    greedy = GenerationRequest(CONTEXTS[0], (), 9)
    built = [greedy, *(GenerationRequest.from_kwargs(*one) for one in asked)]
    mixed = generate(model, tokenizer(), built)
    assert mixed[1:] == together
    assert mixed[:1] == generate(model, tokenizer(), [greedy])


def test_first_tokens_are_as_frequent_as_they_are_probable() -> None:
    """4,000 draws of one token; each count within 4.5 binomial standard errors of n p."""
    model, n = tiny("gpt2"), 4000
    kwargs = {"do_sample": True, "temperature": 2.0, "top_k": 6, "max_gen_toks": 1}
    context = CONTEXTS[0]
    ids = torch.tensor([tokenizer()(context)["input_ids"]])
    with torch.no_grad():
        top = (model(ids).logits[0, -1].double() / 2.0).topk(6)
    chances = dict(zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True))
    texts: Counter[str] = Counter()
    chance_of: Counter[str] = Counter()
    for token, chance in chances.items():
        chance_of[tokenizer().decode([token], skip_special_tokens=True)] += chance
    texts.update(sampled(model, [(context, kwargs, seed) for seed in range(n)]))
    assert set(texts) <= set(chance_of)
    assert sum(chance > 0.02 for chance in chance_of.values()) >= 3
    for text, chance in chance_of.items():
        assert abs(texts[text] - n * chance) <= 4.5 * math.sqrt(n * chance * (1 - chance)) + 1


def test_a_prompt_is_computed_once_for_all_its_samples() -> None:
    model, kwargs = tiny("llama"), {"do_sample": True, "temperature": 1.0, "max_gen_toks": 5}
    prompts = {context: len(tokenizer()(context)["input_ids"]) for context in CONTEXTS}

    def computed(samples: int, **options: Any) -> float:
        asked = [(c, kwargs, 10 * n + j) for n, c in enumerate(prompts) for j in range(samples)]
        built = [GenerationRequest.from_kwargs(*one) for one in asked]
        with recording() as record:
            generate(model, tokenizer(), built, options=EngineOptions(**options))
        assert record.near_ties <= len(prompts)
        return record.computed

    # Each sample adds at most the four tokens after its first, each prompt counts once.
    once = sum(prompts.values())
    assert once < computed(8) <= once + 8 * 3 * 4
    # Slots for one prompt's samples at a time, and more than half of them free before the next.
    assert computed(8, batch_size=9) <= once + 8 * 3 * 4


def test_other_models_and_settings_are_left_to_lm_eval() -> None:
    kwargs = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 2}
    with pytest.raises(UnsupportedRequestError, match="samples of a model"):
        sampled(tiny("mamba"), [("fox", kwargs, 0)])
    with pytest.raises(UnsupportedRequestError, match="typical_p"):
        GenerationRequest.from_kwargs("fox", {**kwargs, "typical_p": 0.5}, 0)
    with pytest.raises(UnsupportedRequestError, match="a seed"):
        GenerationRequest.from_kwargs("fox", kwargs)
    model = tiny("llama", 3)
    assert plainly_sampling(model)
    model.generation_config.typical_p = 0.5
    assert not plainly_sampling(model)
    model.generation_config.typical_p = None
