"""The engine and training on the pretended CUDA device (`support/accelerator.py`).

`install()` cannot be undone, so this file is run once more in a process of its own.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import subprocess
import sys
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

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if not torch.__version__.startswith(accelerator.VERSION) or torch.version.cuda:
    pytest.skip("the pretended device knows another torch", allow_module_level=True)

INSIDE = os.environ.get("AURAC_PRETENDED_DEVICE") == "1"
if INSIDE:
    accelerator.install(devices=2)
else:

    def test_all_of_this_file_on_the_pretended_device() -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", __file__]
        environment = {**os.environ, "AURAC_PRETENDED_DEVICE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


inside = pytest.mark.skipif(not INSIDE, reason="run by the test above, in a process of its own")


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


@inside
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

    rows = [{"question": f"how many apples {a} + {b}", "answer": f"{a} + {b}"} for a in range(6) for b in range(6)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(method: str) -> Any:
        settings = {"name": "tiny", "rank": 4, "steps": 4, "batch_size": 4, "learning_rate": 1e-2}
        files = {"base": str(tiny_base_folder), "data": str(tmp_path / "train.jsonl")}
        return make_recipe({**settings, **files, "method": method, "dtype": "float32"})

    return make


@inside
@pytest.mark.parametrize("method", ["lora", "dylora", "matryoshka", "nested_loss"])
def test_training_has_the_losses_of_the_cpu(
    recipe: Callable[[str], Any], tmp_path: Path, method: str
) -> None:
    from aurac.training import train

    here = train(recipe(method), tmp_path / "cpu", device="cpu")
    there = train(recipe(method), tmp_path / "cuda", device="cuda")
    assert [v for _, v in there.losses] == pytest.approx([v for _, v in here.losses], rel=1e-4)


@inside
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


@inside
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


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@inside
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


@inside
def test_a_memory_error_in_the_probe_is_no_verdict() -> None:
    from aurac.engine.probe import probe

    model = copy.deepcopy(tiny("llama")).cuda()
    with torch.inference_mode():
        for after in range(0, 1200, 150):
            with failing(after, error=ERRORS[0]), pytest.raises(torch.OutOfMemoryError):
                probe(model)
        assert probe(model).packed


@inside
def test_what_hflm_answers_is_batched_and_halved() -> None:
    pairs, prompts = requests()
    lm = budgeted(on_device("gpt_neo"))
    assert lm.batch_size > 1
    with failing(700, times=2):
        close(scores(lm, pairs), reference_scores(tiny("gpt_neo"), pairs))
    with failing(700, times=2):
        assert texts(lm, prompts) == reference_texts(tiny("gpt_neo"), prompts)
