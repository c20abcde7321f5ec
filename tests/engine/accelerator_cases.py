"""The engine and training on the pretended CUDA device, which cannot be undone.

`test_accelerator.py` runs this file, in a process of its own.
"""

from __future__ import annotations

import copy
import functools
import json
import random
from statistics import median
from typing import TYPE_CHECKING, Any

import accelerator
import pytest
import torch
from accelerator import counting, failing
from engine_models import (
    PACKED,
    PLAIN,
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

from aurac.engine import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

accelerator.install(devices=2)


@functools.cache
def on_device(kind: str) -> Any:
    return copy.deepcopy(tiny(kind)).cuda()


def requests(seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, dict[str, Any]]]]:
    """Pairs, half of them behind a header, and prompts that all have one."""
    rng = random.Random(seed)
    header = words(rng, 60) + " "
    pairs = [
        (header * (i % 2) + words(rng, rng.randint(1, 9)), " x" + words(rng, 3)) for i in range(12)
    ]
    limits = (1, 5, 12)
    return pairs, [
        (header + words(rng, rng.randint(1, 9)), {"until": ["the"], "max_gen_toks": limits[i % 3]})
        for i in range(6)
    ]


def close(mine: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> None:
    assert [hit for _, hit in mine] == [hit for _, hit in theirs]
    assert [value for value, _ in mine] == pytest.approx([v for v, _ in theirs], abs=1e-4)


@pytest.mark.parametrize("kind", [*PACKED, *PLAIN])
def test_every_family_answers_as_on_the_cpu(kind: str) -> None:
    pairs, prompts = requests()
    lm = budgeted(on_device(kind))
    if kind in PACKED:
        packed_alone(lm)
    close(scores(lm, pairs), reference_scores(tiny(kind), pairs))
    assert texts(lm, prompts) == reference_texts(tiny(kind), prompts)


@pytest.fixture
def recipe(tiny_base_folder: Path, tmp_path: Path) -> Callable[[str], Any]:
    from aurac.training import make_recipe

    rows = [
        {"question": f"how many apples {a} + {b}", "answer": f"{a} + {b}"}
        for a in range(6)
        for b in range(6)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(method: str) -> Any:
        settings = {"name": "tiny", "rank": 4, "steps": 4, "batch_size": 4, "learning_rate": 1e-2}
        files = {"base": str(tiny_base_folder), "data": str(tmp_path / "train.jsonl")}
        return make_recipe({**settings, **files, "method": method, "dtype": "float32"})

    return make


@pytest.mark.parametrize("method", ["lora", "dylora", "matryoshka", "nested_loss"])
def test_training_has_the_losses_of_the_cpu(
    recipe: Callable[[str], Any], tmp_path: Path, method: str
) -> None:
    from aurac.training.job import train

    here = train(recipe(method), tmp_path / "cpu", device="cpu")
    there = train(recipe(method), tmp_path / "cuda", device="cuda")
    assert [v for _, v in there.losses] == pytest.approx([v for _, v in here.losses], rel=1e-4)


def test_training_takes_the_device_that_it_is_told(
    recipe: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aurac.training import job

    seen = []
    built = job._arguments

    def arguments(*args: Any, **kwargs: Any) -> Any:
        made = built(*args, **kwargs)
        seen.append(made.device)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_arguments", arguments)
    with pytest.raises(KeyboardInterrupt):
        job.train(recipe("lora"), tmp_path / "a", device="cuda:1")
    assert seen == [torch.device("cuda:1")]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
def test_a_model_over_two_devices_runs_packed_passes(kind: str) -> None:
    from accelerate import dispatch_model

    model = copy.deepcopy(tiny(kind))
    places: dict[str, int] = {f"model.layers.{i}": min(i, 1) for i in range(3)}
    places |= {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 0}
    dispatch_model(model, places)
    pairs, prompts = requests()
    lm = packed_alone(budgeted(model))
    close(scores(lm, pairs), reference_scores(tiny(kind), pairs))
    assert texts(lm, prompts) == reference_texts(tiny(kind), prompts)
    assert "forward" in vars(model.model.norm)  # accelerate's own, which moves the inputs


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["torch", "cublas", "cublas init"])
def test_memory_errors_anywhere_end_in_the_same_answers(error: Exception) -> None:
    model, (pairs, prompts) = on_device("llama"), requests()
    right = reference_scores(tiny("llama"), pairs), reference_texts(tiny("llama"), prompts)
    for after in range(0, 900, 97):
        lm = packed_alone(budgeted(model))
        with failing(after, times=2, error=error):
            close(scores(lm, pairs), right[0])
        with failing(after, times=2, error=error):
            assert texts(lm, prompts) == right[1]


def test_a_memory_error_in_the_probe_is_no_verdict() -> None:
    from aurac.engine.probe import probe

    model = copy.deepcopy(tiny("llama")).cuda()
    with torch.inference_mode():
        for after in range(0, 1200, 150):
            with failing(after, error=ERRORS[0]), pytest.raises(torch.OutOfMemoryError):
                probe(model)
        assert probe(model).packed


def test_a_device_without_bfloat16_computes_in_float16_and_refuses_what_overflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aurac.errors import CellError
    from aurac.models.device import pick_dtype

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


def test_what_hflm_answers_is_batched_and_halved() -> None:
    pairs, prompts = requests()
    lm = budgeted(on_device("gpt_neo"))
    assert lm.batch_size > 1
    with failing(700, times=2):
        close(scores(lm, pairs), reference_scores(tiny("gpt_neo"), pairs))
    with failing(700, times=2):
        assert texts(lm, prompts) == reference_texts(tiny("gpt_neo"), prompts)


def deep(layers: int) -> Any:
    """A Llama with LoRA on all projections, as attached: factors in float32 on a 16-bit base."""
    import transformers
    from engine_models import _config

    config = _config("llama")
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    model = lora(transformers.LlamaForCausalLM(config).bfloat16(), 4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return model.cuda()


def counts(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, run: Callable[[], Any]) -> Any:
    """What the device is asked to do in the calls of a function."""
    seen, whole = [], getattr(owner, name)

    def counted(*args: Any) -> Any:
        with counting() as done:
            result = whole(*args)
        seen.append(done)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counted)
        run()
    return seen


# Kernels for each layer of a Llama with LoRA on its seven projections. Of 42 in decoding, 18 are
# LoRA's and the base's products, 10 turn by position, 2 are norms.
DECODING, WITH_HEADER, SCORING = 42, 44, 52


@pytest.mark.parametrize("header", [False, True])
def test_a_decoding_pass_takes_few_kernels_and_one_wait(
    monkeypatch: pytest.MonkeyPatch, header: bool
) -> None:
    from aurac.engine import graphs
    from aurac.engine.decoding import Decoder

    monkeypatch.setattr(graphs, "_EAGER", 10**9)
    rng, kernels = random.Random(1), []
    common = words(rng, 60) + " " if header else ""
    prompts = [
        (common + words(rng, rng.randint(5, 30)), {"until": [], "max_gen_toks": 9})
        for _ in range(11)
    ]
    for layers in (2, 4):
        lm = packed_alone(budgeted(deep(layers)))
        texts(lm, prompts[:2])
        passes = counts(monkeypatch, Decoder, "_advance", lambda lm=lm: texts(lm, prompts))
        assert {sum(done.waits.values()) for done in passes} == {1}
        assert max(done.kernels["copy cpu to cuda"] for done in passes) <= 2  # slots that move
        kernels.append(median(sum(done.kernels.values()) for done in passes))
    assert (kernels[1] - kernels[0]) / 2 <= (WITH_HEADER if header else DECODING)


def test_scoring_takes_few_kernels_and_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from aurac.engine import lm as engine

    rng, kernels = random.Random(1), []
    pairs = [(words(rng, rng.randint(30, 60)), " x" + words(rng, 3)) for _ in range(40)]
    for layers in (2, 4):
        lm = packed_alone(budgeted(deep(layers), tokens=400))
        scores(lm, pairs)
        with counting() as done:
            passes = counts(monkeypatch, engine, "run_pass", lambda lm=lm: scores(lm, pairs))
            assert sum(done.waits.values()) == 1
        assert len(passes) > 5
        assert not any(one.waits for one in passes)
        assert {one.kernels["copy cpu to cuda"] for one in passes} == {2}
        kernels.append(max(sum(one.kernels.values()) for one in passes))
    assert (kernels[1] - kernels[0]) / 2 <= SCORING


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen3"])
def test_graphs_write_the_same_texts(kind: str) -> None:
    rng = random.Random(2)
    prompts = [
        (words(rng, rng.randint(1, 40)), {"until": ["the"], "max_gen_toks": rng.choice([9, 60])})
        for _ in range(14)
    ]
    with counting() as done:
        assert texts(packed_alone(budgeted(on_device(kind))), prompts) == reference_texts(
            tiny(kind), prompts
        )
    assert done.kernels["graph"] > 20


@pytest.mark.parametrize(
    ("kind", "reason"), [("llama", "logits differ"), ("gpt2", "stream is capturing")]
)
def test_without_a_right_graph_passes_stay_eager(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, reason: str
) -> None:
    """CUDA computes nothing while it records: without a replay there are no logits. GPT-2 waits."""
    monkeypatch.setattr(accelerator.Graph, "replay", lambda _: None)
    caplog.set_level("INFO")
    prompts = [(f"{word} quick brown fox", {"until": [], "max_gen_toks": 60}) for word in "abcde"]
    mine = texts(packed_alone(budgeted(copy.deepcopy(on_device(kind)))), prompts)
    assert mine == reference_texts(tiny(kind), prompts)
    assert reason in caplog.text


def test_a_memory_error_repeats_a_pass_and_not_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from aurac.engine import decoding

    rng, seen = random.Random(1), []
    pairs = [(words(rng, 40), " x" + words(rng, 3)) for _ in range(40)]
    prompts = [(words(rng, 40), {"until": [], "max_gen_toks": 20}) for _ in range(40)]
    model, whole = on_device("llama"), running.forward

    def forward(model: Any, tokens: Any, *args: Any) -> Any:
        seen.append(tokens.numel())
        return whole(model, tokens, *args)

    monkeypatch.setattr(running, "forward", forward)
    monkeypatch.setattr(decoding, "forward", forward)
    computed = {}
    for after in (10**9, 1500):
        for ask, asked in ((scores, pairs), (texts, prompts)):
            lm = packed_alone(budgeted(model, tokens=256, sequences=8))
            seen.clear()
            with failing(after):
                ask(lm, asked)
            computed[after, ask] = sum(seen)
    for ask in (scores, texts):
        assert computed[1500, ask] < 1.3 * computed[10**9, ask]


def test_the_cache_takes_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers, two heads of keys and values of 8 numbers of 4 bytes: 384 bytes a token."""
    monkeypatch.setattr(accelerator.STATE, "free", 384 * 1000)
    assert running.cached_tokens(on_device("llama")) == 800
