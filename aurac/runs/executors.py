"""Who computes the cells: this process, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

from aurac.runs.plan import PlannedCell
from aurac.runs.runner import Executor, RunContext, Runner
from aurac.runs.session import Session
from aurac.runs.settings import Execution


class LocalExecutor(Executor):
    """Computes the cells in this process."""

    def run(self, session: Session, cells: Sequence[PlannedCell], context: RunContext) -> None:
        """See `Executor`."""
        Runner(session.base, session.options, context).run(cells)


def make_executor(execution: Execution) -> Executor:
    """The executor that was asked for; a UsageError where what it needs is not installed."""
    if execution.executor == "ray":
        from aurac.runs.ray import RayExecutor

        return RayExecutor(address=execution.address)
    return LocalExecutor()
