"""Holds a backend's answers to the engine's before the first cell, and cells to each other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aurac.adapters.cut import Cut
from aurac.files import sha256_json, write_json
from aurac.records.run import StoredRun
from aurac.runs.inputs import Inputs
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import Progress

if TYPE_CHECKING:
    from aurac.backends.check import Verdict

logger = logging.getLogger(__name__)

CHECKED_FILE = "checked.json"  # of a run folder: what was found right
_SAME = 1e-3  # nats between two log-likelihoods that are one


def check(inputs: Inputs, cells: Sequence[PlannedCell], progress: Progress) -> None:
    """Before the first of these cells: what a backend cannot do, and whether it computes.

    Of each adapter the trained and the smallest rank are asked, unless the run folder says that
    this backend computed them before.

    Raises:
        NotComputedError: Its answers are not those of the engine.
    """
    backend = inputs.backend
    own = dict.fromkeys(cell.cut for cell in cells if cell.cut)
    requests = [cell.task.instances([0])[0] for cell in cells]
    scores = any(r.request_type != "generate_until" for r in requests)
    backend.begin(list(own), scores=scores)
    if not backend.checked or not inputs.settings.check or not own:
        return
    from aurac.backends.check import QUICK, NotComputedError

    path = inputs.folder.path / CHECKED_FILE
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    where = [inputs.settings.model_args.get("base_url"), inputs.identity]
    first = {row.adapter: cuts for row, cuts in reversed(inputs.cuts.items())}
    asked: dict[str, Cut] = {}
    for cut in (cuts[rank] for cuts in first.values() for rank in (max(cuts), min(cuts))):
        about = [where, served_dtype(inputs), cut.truncation, cut.rank, cut.factor]
        if (key := sha256_json(about)) not in known:
            asked[key] = cut
    if not asked:
        return
    progress.step("asking the engine")
    found = verdicts(inputs, list(asked.values()), QUICK)
    for key, verdict in zip(("", *asked), found, strict=False):  # the base is asked first
        named = f"{asked[key].adapter.name} at {verdict}" if key else str(verdict)
        line = f"{backend.name}: {named}"
        progress.say(line)
        if not verdict.right:
            raise NotComputedError(line)
        if key:
            known[key] = line
    write_json(path, known)


def verdicts(inputs: Inputs, cuts: Sequence[Cut], prompts: int) -> Iterator[Verdict]:
    """What the backend computes of the base and of each cut, by so many of the prompts.

    The engine answers first. Unless it does so on the CPU, beside a server, it has a process of its
    own, which ends before the backend takes memory. None where the base fits nowhere.
    """
    from aurac.backends import check

    base, backend = inputs.base, inputs.backend
    requests = [r for task in inputs.leaves for r in task.instances(range(len(task)))]
    questions = check.Questions.of(requests, prompts, base.tokenizer, backend.longest)
    trust = inputs.settings.trust_remote_code
    how = {"dtype": served_dtype(inputs), "device": base.device, "trust_remote_code": trust}
    given = base.name, how, inputs.tokenizer, backend.longest, questions, cuts
    if base.device == "cpu" and backend.device_kind == "server":
        answers = check.answers(*given)
    else:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            answers = pool.submit(check.answers, *given).result()
    if answers:
        yield from check.verdicts(backend, questions, answers, cuts)
    else:
        logger.warning(
            "the base does not fit this machine, so that what %s computes is not held against the "
            "engine",
            backend.name,
        )


def served_dtype(inputs: Inputs) -> str:
    """As stated, or that of the base's files; bfloat16 for float32, which servers cast."""
    if (given := inputs.settings.dtype) not in (None, "auto"):
        return str(given)
    stored = str(inputs.base.model.config.dtype).removeprefix("torch.")
    return "bfloat16" if stored in ("float32", "None") else stored


def alike(stored: StoredRun) -> Iterator[str]:
    """What no cut shows alone: a rank that gave the log-likelihoods of the base or another rank.

    They are the same where most differ by less than any rounding; two computations of two ranks
    never come so near.
    """
    leaves = [leaf.name for task in stored.tasks for leaf in stored.leaves(task)]
    for leaf in dict.fromkeys(leaves):
        for cut in stored.cuts:
            seen: dict[str, NDArray[np.float64]] = {}
            for rank in (0, *cut.ranks):
                known = stored.logged(leaf, cut if rank else None, rank)
                answers = known.cell.responses(known.keys) if known else []
                flat = [value for each in answers for value in np.ravel(each).tolist()]
                if not flat or isinstance(flat[0], str):
                    continue
                values = np.array(flat)
                for other, before in seen.items():
                    if values.size == before.size and np.median(np.abs(values - before)) < _SAME:
                        yield (
                            f"{cut.adapter} at rank {rank} has the log-likelihoods of {other} on "
                            f"{leaf}: the backend may not compute it"
                        )
                        break
                seen[f"rank {rank}" if rank else "the base"] = values
