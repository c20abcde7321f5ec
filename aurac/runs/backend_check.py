"""Holds a backend's answers to the engine's before the first cell, or instead of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from aurac.adapters.cut import Cut
from aurac.errors import UsageError
from aurac.files import sha256_json, write_json
from aurac.runs.inputs import Inputs, load
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import Progress
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from aurac.backends.check import CheckResult

CHECKED_FILE = "checked.json"  # of a run folder: what was found right


def check(inputs: Inputs, cells: Sequence[PlannedCell], progress: Progress) -> None:
    """Before the first of these cells: what a backend cannot do, and whether it computes.

    Of each adapter the trained and the smallest rank are asked, unless the run folder says that
    this backend computed them before.

    Raises:
        NotComputedError: Its answers are not those of the engine.
    """
    backend = inputs.backend
    cuts = dict.fromkeys(cell.cut for cell in cells if cell.cut)
    backend.begin(list(cuts), logprobs=_needs_logprobs(inputs))
    if not backend.checked or not inputs.settings.check or not cuts:
        return
    path = inputs.folder.path / CHECKED_FILE
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    where = [inputs.settings.model_args.get("base_url"), inputs.identity, _served_dtype(inputs)]
    first = {key.adapter: cuts for key, cuts in reversed(inputs.cuts.items())}
    asked: dict[str, Cut] = {}
    for cut in (cuts[rank] for cuts in first.values() for rank in (max(cuts), min(cuts))):
        if (key := sha256_json([where, cut.truncation, cut.rank, cut.factor])) not in known:
            asked[key] = cut
    if not asked:
        return
    from aurac.backends.check import NotComputedError

    progress.step("asking the engine")
    for key, result in zip(("", *asked), ask(inputs, [*asked.values()]), strict=False):
        line = f"{backend.name}: {result}"
        progress.say(line)
        if not result.right:
            raise NotComputedError(line)
        if key:  # the base, which is asked first, has none
            known[key] = line
    write_json(path, known)


def check_only(settings: Settings, progress: Progress) -> Iterator[CheckResult]:
    """Whether a server or vLLM computes the base and every cut; no cell is computed."""
    with load(settings, progress) as inputs:
        if not inputs.backend.checked:
            raise UsageError(f"--model {settings.model} is not checked: name a server or vllm")
        cuts = dict.fromkeys(cut for by_rank in inputs.cuts.values() for cut in by_rank.values())
        inputs.backend.begin([*cuts], logprobs=_needs_logprobs(inputs))
        progress.step("asking the engine")
        yield from ask(inputs, [*cuts])


def ask(inputs: Inputs, cuts: Sequence[Cut]) -> Iterator[CheckResult]:
    """Put prompts of the run to the backend, of the base and then of each cut.

    The engine answers first. Unless it does so on the CPU, beside a server, it has a process of its
    own, which ends before the backend takes memory.
    """
    from aurac.backends import check

    base, backend = inputs.base, inputs.backend
    requests = [r for task in inputs.leaves for r in task.instances(range(len(task)))]
    questions = check.Questions.of(requests, base.tokenizer, backend.longest)
    trust = inputs.settings.trust_remote_code
    how = {"dtype": _served_dtype(inputs), "device": base.device, "trust_remote_code": trust}
    given = base.name, how, inputs.tokenizer, backend.longest, questions, cuts
    if base.device == "cpu" and backend.device_kind == "server":
        answers = check.answers(*given)
    else:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            answers = pool.submit(check.answers, *given).result()
    yield from check.results(backend, questions, answers, cuts)


def _served_dtype(inputs: Inputs) -> str:
    """As stated, or that of the base's files; bfloat16 for float32, which servers cast."""
    if (given := inputs.settings.dtype) not in (None, "auto"):
        return str(given)
    stored = str(inputs.base.model.config.dtype).removeprefix("torch.")
    return "bfloat16" if stored in ("float32", "None") else stored


def _needs_logprobs(inputs: Inputs) -> bool:
    first = (task.instances([0])[0] for task in inputs.leaves)
    return any(request.request_type != "generate_until" for request in first)
