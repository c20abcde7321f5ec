"""Where cells are computed: processes of this machine, or a Ray cluster.

An executor makes sure that every cell it is given ends as a cell or as a record of failure in the
store. It schedules nothing itself: processes share a folder through locks, and Ray places tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.plan import PlannedCell
    from aurac.runs.runner import RunContext
    from aurac.runs.session import Session
    from aurac.runs.settings import Execution
    from aurac.runs.store import CellStore

__all__ = ["Executor", "make_executor"]


class Executor(Protocol):
    """Computes the cells of a session."""

    def run(
        self, session: Session, store: CellStore, cells: Sequence[PlannedCell], context: RunContext
    ) -> None:
        """Until every cell is done or failed.

        Raises:
            BaseModelError: The base cannot be loaded.
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; what is done is kept.
            AuracError: The executor itself cannot go on.
        """


def make_executor(execution: Execution) -> Executor:
    """The executor that was asked for.

    Raises:
        UsageError: What it needs is not installed.
    """
    if execution.executor == "ray":
        from aurac.runs.ray import RayExecutor

        return RayExecutor(address=execution.address, workers=execution.workers)
    from aurac.runs.workers import LocalExecutor

    return LocalExecutor(execution)
