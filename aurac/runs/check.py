"""Holds a backend's answers against the engine's before the first cell."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aurac.adapters.cut import Cut
from aurac.runs.inputs import Inputs
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import Progress

if TYPE_CHECKING:
    from aurac.backends.check import Verdict

logger = logging.getLogger(__name__)


def check(inputs: Inputs, cells: Sequence[PlannedCell], progress: Progress) -> None:
    """Before the first of these cells: what a backend cannot do, and whether it computes.

    Raises:
        NotComputedError: Its answers are not those of the engine.
    """
    backend = inputs.backend
    own = {(*cut.truncation, cut.rank, cut.factor): cut for cell in cells if (cut := cell.cut)}
    cuts = list(own.values())
    requests = [cell.task.instances([0])[0] for cell in cells]
    backend.begin(cuts, scores=any(r.request_type != "generate_until" for r in requests))
    if not backend.checked or not cuts:
        return
    from aurac.backends.check import QUICK, NotComputedError

    for cut, verdict in zip([None, *cuts], verdicts(inputs, cuts, QUICK), strict=False):
        line = f"{backend.name}: {f'{cut.adapter.name} at {verdict}' if cut else verdict}"
        progress.say(line)
        if not verdict.right:
            raise NotComputedError(line)


def verdicts(inputs: Inputs, cuts: Sequence[Cut], prompts: int) -> Iterator[Verdict]:
    """What the backend computes of the base and of each cut, by so many of the prompts."""
    from aurac.backends.check import Check, fits
    from aurac.models.base import load_base

    base, given = inputs.base, inputs.settings
    if not fits(base.model):
        logger.warning(
            "the base does not fit this machine in float32, so that what %s computes is not "
            "held against the engine",
            given.model,
        )
        return
    trust = given.trust_remote_code
    loaded = load_base(base.name, dtype="float32", device="cpu", trust_remote_code=trust)
    loaded = inputs.tokenizer.adopted_by(loaded)
    requests = [r for task in inputs.leaves for r in task.instances(range(len(task)))]
    check = Check(loaded, served_dtype(inputs), requests, prompts, scores=inputs.backend.scores)
    yield from check.verdicts(inputs.backend.checking, cuts)


def served_dtype(inputs: Inputs) -> str:
    """As stated, or that of the base's files; bfloat16 for float32, which servers cast."""
    given = inputs.settings.model_args.get("dtype") or inputs.settings.dtype
    stored = str(inputs.base.model.config.dtype).removeprefix("torch.")
    if given in (None, "auto"):
        given = "bfloat16" if stored in ("float32", "None") else stored
    return str(given).replace("half", "float16")
