"""Holds a backend's answers against the engine's before the first cell."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aurac.adapters.cut import Cut
from aurac.runs.inputs import Inputs
from aurac.runs.plan import PlannedCell

if TYPE_CHECKING:
    from aurac.backends.check import Verdict

logger = logging.getLogger(__name__)

PROMPTS = 3


def check(inputs: Inputs, cells: Sequence[PlannedCell]) -> None:
    """Before the first of these cells: what a backend cannot do, and whether it computes.

    Raises:
        NotComputedError: Its answers are not those of the engine.
    """
    backend = inputs.backend
    cuts = [cell.cut for cell in cells if cell.cut]
    requests = [cell.task.instances([0])[0] for cell in cells]
    backend.begin(cuts, scores=any(r.request_type != "generate_until" for r in requests))
    if not backend.checked or not cuts:
        return
    from aurac.backends.check import NotComputedError

    lowest = min(cuts, key=lambda cut: cut.rank)
    largest = max(reversed(cuts), key=lambda cut: cut.rank)
    for verdict in verdicts(inputs, list(dict.fromkeys([lowest, largest])), PROMPTS):
        if not verdict.right:
            where = f"at rank {verdict.rank}" if verdict.rank else "without an adapter"
            raise NotComputedError(f"{backend.name} {where}: {verdict.says}")


def verdicts(inputs: Inputs, cuts: Sequence[Cut], prompts: int) -> Iterator[Verdict]:
    """What the backend computes of the base and of each cut, by the first so many examples."""
    from aurac.backends.check import Check, fits
    from aurac.models.base import load_base

    base, task, given = inputs.base, inputs.leaves[0], inputs.settings
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
    asked = [i.args for i in task.instances(range(min(prompts, len(task))))]
    texts = ["".join(part for part in args if isinstance(part, str)) for args in asked]
    texts = list(dict.fromkeys(texts))[:prompts]
    check = Check(loaded, served_dtype(inputs), texts, scores=inputs.backend.scores)
    yield from check.verdicts(inputs.backend.checking, cuts)


def served_dtype(inputs: Inputs) -> str:
    """As stated, or that of the base's files; bfloat16 for float32, which servers cast."""
    given = inputs.settings.model_args.get("dtype") or inputs.settings.dtype
    stored = str(inputs.base.model.config.dtype).removeprefix("torch.")
    if given in (None, "auto"):
        given = "bfloat16" if stored in ("float32", "None") else stored
    return str(given).replace("half", "float16")
