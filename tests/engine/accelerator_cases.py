"""The engine and training on the pretended CUDA device, which cannot be undone.

`test_accelerator.py` runs this file, in a process of its own.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from typing import TYPE_CHECKING, Any

import accelerator
import pytest
import torch
from accelerator import counting, failing
from engine_models import (
    PACKED,
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

from aurac.engine import decoding, running
from aurac.engine.probe import probe
from aurac.errors import CellError
from aurac.models.device import pick_dtype
from aurac.training import job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

accelerator.install(devices=2)
pytest_plugins = ("training.conftest",)  # for its recipe


@functools.cache
def on_device(kind: str) -> Any:
    return copy.deepcopy(tiny(kind)).cuda()


def requests(seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, dict[str, Any]]]]:
    """Pairs, half of them behind a header, and prompts that all have one."""
    rng = random.Random(seed)
    header = words(rng, 60) + " "
    texts = [words(rng, rng.randint(1, 9)) for _ in range(12)]
    pairs = [(header * (i % 2) + text, " x" + words(rng, 3)) for i, text in enumerate(texts)]
    limits = 2 * (1, 5, 12)
    return pairs, [
        (header + text, {"until": ["the"], "max_gen_toks": limit})
        for text, limit in zip(texts, limits, strict=False)
    ]


def assert_as_on_the_cpu(lm: Any, kind: str) -> None:
    pairs, prompts = requests()
    assert_same(scores(lm, pairs), reference_scores(tiny(kind), pairs))
    assert texts(lm, prompts) == reference_texts(tiny(kind), prompts)


@pytest.mark.parametrize("kind", PACKED)
def test_every_family_answers_as_on_the_cpu(kind: str) -> None:
    assert_as_on_the_cpu(packed_alone(budgeted(on_device(kind))), kind)


@pytest.mark.parametrize("method", ["lora", "dylora", "matryoshka", "nested_loss"])
def test_training_has_the_losses_of_the_cpu(
    recipe: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    here = job.train(recipe(method), tmp_path / "cpu", device="cpu")
    there = job.train(recipe(method), tmp_path / "cuda", device="cuda")
    assert [v for _, v in there.losses] == pytest.approx([v for _, v in here.losses], rel=1e-4)


def test_training_takes_the_device_that_it_is_told(
    recipe: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        """The arguments of a Trainer that is to begin."""

    def begin(trainer: Any, **_: Any) -> None:
        raise SeenError(trainer.args.device)

    monkeypatch.setattr("transformers.Trainer.train", begin)
    with pytest.raises(SeenError, match="cuda:1"):
        job.train(recipe("lora"), tmp_path / "a", device="cuda:1")


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
def test_a_model_over_two_devices_runs_packed_passes(kind: str) -> None:
    from accelerate import dispatch_model

    model = copy.deepcopy(tiny(kind))
    places: dict[str, int] = {f"model.layers.{i}": min(i, 1) for i in range(3)}
    places |= {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 0}
    dispatch_model(model, places)
    assert_as_on_the_cpu(packed_alone(budgeted(model)), kind)
    assert "forward" in vars(model.model.norm)  # accelerate's own, which moves the inputs


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("kind", ["llama", "gpt_neo"])
@pytest.mark.parametrize("error", ERRORS, ids=["torch", "cublas", "cublas init"])
def test_memory_errors_anywhere_end_in_the_same_answers(error: Exception, kind: str) -> None:
    """Of packed passes, and of HFLM's, which answers for GPT-Neo in batches."""
    model, (pairs, prompts) = on_device(kind), requests()
    right = reference_scores(tiny(kind), pairs), reference_texts(tiny(kind), prompts)
    for after in range(0, 900, 97) if kind == "llama" else [700]:
        lm = budgeted(model)
        assert kind == "llama" or lm.batch_size > 1
        with failing(after, times=2, error=error):
            assert_same(scores(lm, pairs), right[0])
        with failing(after, times=2, error=error):
            assert texts(lm, prompts) == right[1]


def test_a_memory_error_in_the_probe_is_no_verdict() -> None:
    model = copy.deepcopy(tiny("llama")).cuda()
    with torch.inference_mode():
        for after in range(0, 1200, 150):
            with failing(after, error=ERRORS[0]), pytest.raises(torch.OutOfMemoryError):
                probe(model)
        assert probe(model).longest == math.inf


def test_a_device_without_bfloat16_computes_in_float16_and_refuses_what_overflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accelerator.STATE, "capability", (7, 5))
    assert pick_dtype("auto", "cuda") == torch.float16
    assert pick_dtype("auto", "cuda", training=True) == torch.float32
    model = copy.deepcopy(tiny("llama")).half().cuda()
    pairs, _ = requests()
    assert len(scores(packed_alone(budgeted(model)), pairs)) == len(pairs)
    model.model.layers[1].mlp.down_proj.weight.data.fill_(60_000)
    model.model.layers[1].mlp.up_proj.weight.data.fill_(60_000)
    with pytest.raises(CellError, match="--dtype float32"):
        scores(budgeted(copy.deepcopy(model)), pairs)


# A Llama with LoRA, as attached: factors in float32 on a 16-bit base. The host waits for the
# answers alone, and a pass has one copy of what is planned and one of what it decodes.
@pytest.mark.parametrize(
    ("ask", "copies_of_a_pass", "waits_in_each"), [(texts, 2, True), (scores, 2, False)]
)
def test_the_host_waits_for_answers_alone(
    ask: Callable[[Any, Any], Any], copies_of_a_pass: int, waits_in_each: bool
) -> None:
    rng = random.Random(1)
    asked: list[Any] = [(words(rng, 30 + i), " x" + words(rng, 3)) for i in range(40)]
    if ask is texts:
        asked = [(context, {"until": [], "max_gen_toks": 9}) for context, _ in asked[:11]]
    lm = packed_alone(budgeted(lora(tiny("llama"), 4, torch.bfloat16).cuda(), tokens=400))
    ask(lm, asked[:2])
    with counting() as done:
        ask(lm, asked)
    passes = done.kernels["aten::cos"]  # of all positions, once
    assert passes > 5
    assert done.kernels["copy cpu to cuda"] <= copies_of_a_pass * passes
    assert sum(done.waits.values()) == (passes if waits_in_each else 1)


def test_a_memory_error_repeats_a_pass_and_not_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, seen = random.Random(1), []
    pairs = [(words(rng, 40), " x" + words(rng, 3)) for _ in range(40)]
    prompts = [(words(rng, 40), {"until": [], "max_gen_toks": 20}) for _ in range(40)]
    model, whole = on_device("llama"), running.forward

    def forward(model: Any, tokens: Any, *args: Any) -> Any:
        seen.append(tokens.numel())
        return whole(model, tokens, *args)

    monkeypatch.setattr(running, "forward", forward)
    monkeypatch.setattr(decoding, "forward", forward)
    for ask, asked in ((scores, pairs), (texts, prompts)):
        computed = []
        for after in (10**9, 1500):
            lm = packed_alone(budgeted(model, tokens=256, sequences=8))
            seen.clear()
            with failing(after):
                ask(lm, asked)
            computed.append(sum(seen))
        assert computed[1] < 1.3 * computed[0]


def test_the_cache_takes_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers, two heads of keys and values of 8 numbers of 4 bytes: 384 bytes a token."""
    monkeypatch.setattr(accelerator.STATE, "free", 384 * 1000)
    assert running.cached_tokens(on_device("llama")) == 800
