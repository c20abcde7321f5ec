"""What is kept of a cell that was computed, and of one that could not be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.errors import AuracError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.plan import PlannedCell
    from aurac.tasks.task import CellOutcome


def cell_content(
    cell: PlannedCell, outcome: CellOutcome, seconds: float, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What a cell's file holds beside its head."""
    task = cell.task
    content: dict[str, Any] = {
        "doc_ids": list(task.doc_ids),
        "doc_hashes": list(task.doc_hashes),
        "strata": list(task.strata) if task.strata is not None else None,
        "metrics": {k: [float(x) for x in v] for k, v in outcome.metrics.items()},
        "responses": outcome.responses,
        "logged": outcome.logged,
        "engine": dict(outcome.engine),
        "seconds": round(seconds, 3),
    }
    return {**content, "notes": list(notes)} if notes else content


def failure_content(cell: PlannedCell, reason: str, kind: str, seconds: float) -> dict[str, Any]:
    """What the record of a failed cell holds beside its head."""
    return {
        "cell": cell.label,
        "reason": reason,
        "kind": kind,
        "seconds": round(seconds, 3),
    }


def reason_of(error: BaseException) -> str:
    """One line for a record of failure."""
    if isinstance(error, AuracError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
