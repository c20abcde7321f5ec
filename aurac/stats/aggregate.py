"""Several tasks: one number for all, with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from aurac.errors import CurveError
from aurac.stats.seeds import estimate_from, weigh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.stats.mean import Estimate
    from aurac.stats.seeds import Components

Weighting = Literal["tasks", "documents"]


def task_weights(documents: Mapping[str, int], by: str = "tasks") -> dict[str, float]:
    """What each task weighs in an aggregate, summing to 1.

    Args:
        documents: Documents of each task.
        by: "tasks": all alike; "documents": in proportion to their documents.

    Raises:
        CurveError: Another word, or no tasks.
    """
    if not documents:
        raise CurveError("an aggregate of no tasks")
    if by == "tasks":
        return dict.fromkeys(documents, 1.0 / len(documents))
    if by == "documents":
        total = sum(documents.values())
        return {task: n / total for task, n in documents.items()}
    raise CurveError(f"tasks weighed by {by!r}", expected="'tasks' or 'documents'")


def aggregate(
    parts: Mapping[str, Components | None],
    documents: Mapping[str, int],
    *,
    by: str = "tasks",
    level: float = 0.95,
    signed: bool = False,
) -> Estimate:
    """The weighted mean over tasks of an arm's AURAC or of a paired difference.

    Tasks have documents of their own, so their document terms add; training seeds are shared, so
    seed means are averaged over tasks, matched by seed, before their spread is taken.

    Args:
        parts: For each task its components (`aurac.stats.components`); None for a missing
            task.
        documents: Documents of each task.
        by: "tasks" or "documents".
        level: Coverage.
        signed: Whether the numbers are differences, in [-1, 1].

    Raises:
        CurveError: A task is missing, or tasks have other seeds: no aggregate is made.
    """
    absent = [task for task, part in parts.items() if part is None]
    if absent:
        raise CurveError(
            f"no result on {', '.join(absent)}", fix="no aggregate is made of the other tasks"
        )
    weights = task_weights({task: documents[task] for task in parts}, by)
    known = {task: part for task, part in parts.items() if part is not None}
    total = weigh(known, weights)
    words = f"{len(known)} tasks weighing {'the same' if by == 'tasks' else 'by their documents'}"
    return estimate_from(total, level, words, (-1.0 if signed else 0.0, 1.0))
