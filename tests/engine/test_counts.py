"""What the engine counts of itself: tokens, passes, arithmetic, and decisions within rounding."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_models import tiny, tokenizer, words

from aurac.engine import EngineOptions
from aurac.engine.counts import counted_pass, logit_noise, recording, watched
from aurac.engine.inference import generate, loglikelihoods
from aurac.engine.probe import probe
from aurac.engine.running import laid_out
from aurac.engine.tokens import GenerationRequest, ScoringLayout
from aurac.errors import CellError
from aurac.tasks.metrics import Leaf


def prefixes(rows: list[tuple[int, ...]]) -> int:
    """Distinct non-empty prefixes, counted one by one."""
    return len({row[: i + 1] for row in rows for i in range(len(row))})


def choice_pairs(count: int) -> list[tuple[str, str]]:
    """Short questions that begin alike in several ways, two choices each."""
    rng = random.Random(3)
    starts = ["Question: what is", "Question: the quick", "fox jumps over"]
    contexts = [f"{rng.choice(starts)} {words(rng, 6)}" for _ in range(count)]
    return [(c, f" {words(rng, 2)}") for c in contexts for _ in range(2)]


def test_scoring_counts_its_tokens_and_arithmetic() -> None:
    model = tiny("llama")
    pairs = choice_pairs(10)
    options = EngineOptions()
    loglikelihoods(model, tokenizer(), pairs[:2], options=options)  # the probe is none of it
    with recording() as record:
        loglikelihoods(model, tokenizer(), pairs, options=options)
    rows = [
        tuple(tokenizer()(context + choice, add_special_tokens=False).input_ids[:-1])
        for context, choice in pairs
    ]
    assert record.distinct == prefixes(rows)
    assert record.distinct <= record.computed <= 1.1 * record.distinct
    assert record.paths == {"packed"}
    # Llama, hidden 32, 4 heads on 2 key-value heads of 8, intermediate 48, 3 layers, 300 tokens.
    body = 3 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 48)
    layout = laid_out(ScoringLayout, model, tokenizer(), pairs, options)
    scored = len(set(layout.pair_node.tolist()))
    assert record.flops == 2 * (body * record.computed + 32 * 300 * scored)
    assert record.forward_seconds is not None
    assert record.forward_seconds > 0
    assert record.passes >= 1


def test_the_probe_is_not_counted() -> None:
    model = copy.deepcopy(tiny("llama"))
    with recording() as record:
        loglikelihoods(model, tokenizer(), [("fox", " dog")], options=EngineOptions())
    assert record.passes == 1


def test_plain_rows_count_their_padding() -> None:
    model = tiny("llama")
    tokens = tokenizer()
    pairs = [("fox", " dog dog dog"), ("the", " a")]
    with recording() as record:
        loglikelihoods(model, tokens, pairs, options=EngineOptions(packed=False))
    lengths = [len(tokens(a + b).input_ids) - 1 for a, b in pairs]
    assert lengths[0] > lengths[1]
    assert record.paths == {"rows"}
    assert record.computed == 2 * max(lengths)
    assert record.distinct == sum(lengths)


def test_documents_that_begin_alike_share_their_beginnings() -> None:
    rng = random.Random(5)
    starts = ["fox", "the", "dog", "over", "a", "42"]
    pairs = [(f"{rng.choice(starts)} {words(rng, 20)}", f" {words(rng, 3)}") for _ in range(150)]
    model = tiny("llama")
    options = EngineOptions(batch_tokens=1024)
    layout = laid_out(ScoringLayout, model, tokenizer(), pairs, options)
    with recording() as record:
        loglikelihoods(model, tokenizer(), layout, options=options)
    assert record.computed <= 1.02 * record.distinct


def test_generation_counts_prompts_and_what_was_fed_back() -> None:
    model = tiny("llama")
    tokens = tokenizer()
    requests = [GenerationRequest(c, (), 5) for c in ("fox jumps", "fox jumps", "the lazy dog 42")]
    generate(model, tokens, requests, options=EngineOptions())
    with recording() as record:
        texts = generate(model, tokens, requests, options=EngineOptions())
    rows = []
    for request in dict.fromkeys(requests):
        prompt = tokens(request.context, return_tensors="pt").input_ids
        out = model.generate(prompt, max_new_tokens=5, do_sample=False)[0].tolist()
        rows.append(tuple(out[:-1]))
    assert len(texts) == 3
    assert record.distinct == prefixes(rows)
    assert record.computed == sum(map(len, rows))  # nothing is shared but the duplicate


def test_prompts_that_begin_alike_are_prefilled_together() -> None:
    model = tiny("llama")
    rng = random.Random(8)
    prompts = [f"{rng.choice(['what', 'the lazy'])} {words(rng, 12)}" for _ in range(60)]
    requests = [GenerationRequest(p, (), 3) for p in prompts]
    with recording() as record:
        texts = generate(model, tokenizer(), requests, options=EngineOptions())
    plain = generate(model, tokenizer(), requests, options=EngineOptions(packed=False))
    assert texts == plain
    assert record.computed <= 1.02 * record.distinct


def _twin(model: Any, gap: float) -> Any:
    """A copy whose every answer is token 70 or 71, the second behind by `gap` in its logit."""
    twin = copy.deepcopy(model)
    twin.config.tie_word_embeddings = False
    head = torch.nn.Linear(32, 300, bias=True)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[70] = 10.0
        head.bias[71] = 10.0 - gap
    twin.set_output_embeddings(head)
    return twin


@pytest.mark.parametrize(("gap", "ties"), [(0.0, 3), (0.5e-4, 3), (0.1, 0)])
def test_a_token_chosen_within_rounding_is_a_near_tie(gap: float, ties: int) -> None:
    twin = _twin(tiny("llama"), gap)
    requests = [GenerationRequest(c, (), 2) for c in ("fox", "fox", "the lazy")]
    plain = generate(twin, tokenizer(), requests, options=EngineOptions())
    with recording() as record:
        texts = generate(twin, tokenizer(), requests, options=EngineOptions())
    assert record.near_ties == ties
    assert texts == plain == [tokenizer().decode([70, 70])] * 3


@pytest.mark.parametrize(("second", "ties"), [(-5.0, 1), (-5.00015, 1), (-5.1, 0)])
def test_a_choice_made_within_rounding_is_a_near_tie(second: float, ties: int) -> None:
    instance = SimpleNamespace(request_type="loglikelihood")
    document = SimpleNamespace(instances=(instance,) * 3)
    single = SimpleNamespace(instances=(instance,))
    leaf = Leaf("t", None, (document, single), {})  # type: ignore[arg-type]
    answers = [[(v, False)] for v in (-9.0, second, -5.0, -1.0)]
    assert leaf.near_ties(leaf.documents, answers, logit_noise(torch.float32)) == ties


def test_without_a_recording_nothing_is_counted() -> None:
    with recording() as record:
        pass
    with counted_pass(tiny("llama"), 5, 1):
        pass
    assert record.passes == 0
    assert record.counts().computed_tokens == 0


def test_an_unknown_dtype_is_taken_for_the_coarsest() -> None:
    assert logit_noise(torch.float8_e4m3fn) == logit_noise(torch.bfloat16)


def test_what_a_models_own_generation_decides_is_not_counted_as_no_near_tie(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cell says that it does not know, and the log why the model's own generation answered."""
    twin = _twin(tiny("llama"), 0.0)
    twin.generation_config.repetition_penalty = 1.0001
    with recording() as record, caplog.at_level("INFO", "aurac"):
        generate(twin, tokenizer(), [GenerationRequest("fox", (), 2)], options=EngineOptions())
    assert record.counts().near_ties is None
    assert record.counts().paths == ["generate"]
    assert "more than greedy decoding" in caplog.text


def test_the_log_says_who_answers(caplog: pytest.LogCaptureFixture) -> None:
    """Packed passes, the plain path from a length on, the plain path: and why."""
    with caplog.at_level("INFO", "aurac"), torch.inference_mode():
        for kind in ("llama", "bloom"):
            probe(copy.deepcopy(tiny(kind)))
        limited = copy.deepcopy(tiny("llama"))
        limited.config.attention_chunk_size = 9
        probe(limited)
    first, second, third = (r.getMessage() for r in caplog.records)
    assert first == "packed passes serve LlamaForCausalLM"
    assert second.startswith("BloomForCausalLM: ")
    assert second.endswith("; using the plain path")
    assert third == (
        "packed passes serve LlamaForCausalLM up to 9 tokens, the plain path serves longer tasks: "
        "its attention is local beyond 9 tokens"
    )


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
    model = with_bias({7: value})
    with watched(model) as watch, pytest.raises(CellError, match="no finite number"):
        generate(model, tokenizer(), [GenerationRequest("fox", (), 3)])
    assert watch.passes == 0  # the first one ended it
    with pytest.raises(CellError):
        watch.check()


def test_a_row_without_any_token_is_refused() -> None:
    model = with_bias(dict.fromkeys(range(300), float("-inf")))
    with watched(model), pytest.raises(CellError):
        loglikelihoods(model, tokenizer(), [("fox", " dog")])


def test_tokens_that_are_ruled_out_are_no_fault() -> None:
    model = with_bias({299: float("-inf")})
    with watched(model) as watch:
        generate(model, tokenizer(), [GenerationRequest("fox", (), 3)])
    watch.check()
    assert watch.passes >= 3
