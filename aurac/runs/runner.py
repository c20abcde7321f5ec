"""Computes cells in a run folder, together with whoever else works there.

A cell is computed block by block, and each block is kept as soon as it is there. Processes share
the cells through locks. A cell that fails leaves a record of its reason and does not stop the rest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import Self

from aurac.engine import EngineOptions
from aurac.errors import AuracError, RunFolderError
from aurac.models.base import LoadedBase
from aurac.records.cell import Aggregates, Failure
from aurac.records.store import CellStore, cannot_write, documents_hash
from aurac.runs.evaluator import Counter, Evaluator, stop_if_device_is_lost
from aurac.runs.interrupts import Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import NoProgress
from aurac.runs.session import Session

logger = logging.getLogger(__name__)

MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed
PAUSE_SECONDS = 1.0  # between rounds in which others hold all cells


@dataclass
class RunContext:
    """Where cells are kept, who has which, and who is told how they end."""

    store: CellStore
    locks: Locks
    interrupts: Interrupts = field(default_factory=Interrupts)
    log: RunLog = field(default_factory=lambda: RunLog(None))
    progress: NoProgress = field(default_factory=NoProgress)

    def go_on(self) -> None:
        """Show the other processes that this one lives; raises Interrupted if a signal came."""
        self.locks.step()
        self.interrupts.check()

    def take(self, cell: PlannedCell) -> Literal["taken", "held", "settled"]:
        """Take a cell's lock, where no other process holds it or has settled the cell."""
        if self.is_settled(cell):
            return "settled"
        try:
            if not self.locks.acquire(cell.identity.key):
                return "held"
        except OSError as error:
            raise cannot_write(self.store.run_folder, error) from error
        if self.is_settled(cell):
            self.locks.release(cell.identity.key)
            return "settled"
        return "taken"

    def is_settled(self, cell: PlannedCell) -> bool:
        """Whether another process has computed a cell, or failed to; progress is told then."""
        key = cell.identity.key
        done = self.store.count(key, cell.scoring) >= len(cell.documents)
        if not done and not self.store.has_failed(key):
            return False
        self.progress.documents(cell.task.n_requests)
        self.progress.settled(cell, f"{'done' if done else 'failed'} by another process")
        return True

    def add_aggregates(self, cell: PlannedCell) -> None:
        """Keep the metrics over all documents that are no means, where the task has any."""
        whole = self.store.read(cell.identity.key, cell.documents, cell.scoring)
        if whole is None or whole.missing:
            return
        values = cell.task.leaf.aggregates({**whole.metrics, **whole.logged.other})
        values = {key: value for key, value in values.items() if math.isfinite(value)}
        if values and values != whole.aggregates:
            content = Aggregates(documents_sha256=documents_hash(whole.documents), values=values)
            self.store.append(cell.identity, content, len(cell.documents), cell.scoring)

    def done(self, cell: PlannedCell, seconds: float, requests: int) -> None:
        """All documents of a cell are there, after so many seconds and requests of this process."""
        what = {"key": cell.identity.key, "cell": cell.label, "task": cell.task.name}
        self.log.event("cell", **what, requests=requests, seconds=round(seconds, 3))
        self.progress.settled(cell, f"done in {seconds:.1f} s")

    def failed(self, cell: PlannedCell, failure: Failure, uncounted: int) -> None:
        """A cell cannot be computed; `uncounted` are requests that progress was not told of."""
        self.store.fail(failure)
        self.log.event("failed", key=failure.key, cell=cell.label, reason=failure.reason)
        self.progress.documents(uncounted)
        self.progress.settled(cell, "failed")


class Executor:
    """Computes cells of a session, one set after the other; a context that ends its workers."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()  # the workers that were started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the workers; the next `run` starts others."""
        self.__exit__(None, None, None)

    def run(self, session: Session, cells: Sequence[PlannedCell], context: RunContext) -> None:
        """Until every cell ends as a cell or as a record of failure in the store.

        Raises:
            BaseModelError: The base cannot be loaded.
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; what is done is kept.
            AuracError: The executor itself cannot go on.
        """
        raise NotImplementedError


class Runner:
    """Computes cells in this process; `base` is called when the first one is computed."""

    def __init__(
        self, base: Callable[[], LoadedBase], options: EngineOptions, context: RunContext
    ) -> None:
        self.context = context
        self._evaluator = Evaluator(
            base,
            options,
            before_pass=context.go_on,
        )

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """Until every cell is done or failed, here or in another process.

        Raises:
            BaseModelError: The base cannot be loaded; no cell is recorded as failed for that.
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; the block in flight was dropped.
            LostDeviceError: The accelerator is of no more use to this process.
        """
        waiting = deque(cells)
        with self._evaluator:
            while waiting:
                before = len(waiting)
                for cell in [waiting.popleft() for _ in range(before)]:
                    self.context.go_on()
                    if not self._take(cell):
                        waiting.append(cell)
                    # Others go through the cells in the same order: the first held ends first.
                    while waiting and self.context.is_settled(waiting[0]):
                        waiting.popleft()
                if len(waiting) == before:
                    self.context.log.event("waiting", cells=before)
                    time.sleep(PAUSE_SECONDS)

    def _take(self, cell: PlannedCell) -> bool:
        """Compute a cell under its lock; False where another process holds that."""
        context, key = self.context, cell.identity.key
        state = context.take(cell)
        if state != "taken":
            return state == "settled"
        try:
            deaths = context.locks.deaths(key)
            if deaths >= MOST_DEATHS:
                reason = f"{deaths} processes ended while they computed it"
                context.failed(cell, failure_of(cell, reason, "Died"), cell.task.n_requests)
                return True
            with context.interrupts.working():
                self._compute(cell)
        finally:
            context.locks.release(key)
        context.interrupts.check()
        return True

    def _compute(self, cell: PlannedCell) -> None:
        """Compute what is missing of a cell; it is settled then, as a cell or as a failure."""
        context = self.context
        self._evaluator.base()
        context.progress.cell(cell)
        counter = Counter(context.progress.documents)
        context.log.event("begin", key=cell.identity.key, cell=cell.label)
        started = time.perf_counter()
        try:
            requests = self._complete(cell, counter)
        except RunFolderError:
            raise
        except Exception as error:
            if not isinstance(error, AuracError):
                logger.debug("cell %s failed", cell.label, exc_info=True)
            failure = failure_after(error, cell, started)
            context.failed(cell, failure, cell.task.n_requests - counter.count)
            stop_if_device_is_lost(error, cell)
            return
        context.done(cell, time.perf_counter() - started, requests)

    def _complete(self, cell: PlannedCell, counter: Counter) -> int:
        """Add the missing blocks; how many requests they were."""
        identity, store = cell.identity, self.context.store
        missing = cell.missing(store.read(identity.key, cell.documents, cell.scoring))
        there = len(cell.documents) - len(missing)
        requests = cell.requests(missing)
        counter(cell.task.n_requests - requests)
        for block in self._evaluator.blocks(cell, cell.blocks(missing), counter):
            there += len(block.documents)
            store.append(identity, block, there, cell.scoring)
            self.context.locks.clear_deaths(identity.key)
        if store.count(identity.key, cell.scoring) != len(cell.documents):
            store.recount(identity, len(cell.documents), cell.scoring)
        self.context.add_aggregates(cell)
        return requests


def failure_of(cell: PlannedCell, reason: str, kind: str, seconds: float = 0.0) -> Failure:
    """The record of a cell that cannot be computed."""
    what: dict[str, Any] = {"key": cell.identity.key, "identity": cell.identity, "cell": cell.label}
    return Failure(**what, reason=reason, kind=kind, seconds=round(seconds, 3))


def failure_after(error: Exception, cell: PlannedCell, started: float) -> Failure:
    """The record of a cell that an error ended, with one line of it; `started` by perf_counter."""
    kind = type(error).__name__
    if isinstance(error, AuracError):
        reason = error.text
    else:
        reason = f"{kind}: {(str(error).strip().splitlines() or [''])[0]}"
    return failure_of(cell, reason, kind, time.perf_counter() - started)
