"""Computes cells in this process, together with whoever else works in the run folder.

A cell is computed block by block, and each block is kept as soon as it is there. A cell that fails
keeps its reason and does not stop the rest; the same command tries it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aurac.backends.backend import Backend
from aurac.errors import AuracError, RunFolderError, first_line
from aurac.models.device import no_memory
from aurac.records.folder import MOST_DEATHS, RunFolder
from aurac.records.lines import Aggregates, Block, Failed, examples_sha256
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import Progress

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # between rounds in which others hold all cells


class LostDeviceError(AuracError):
    """An accelerator or engine that answers nothing more; other cells would fail with it."""

    exit_code = 3


@dataclass(eq=False)
class CellWork:
    """Where cells are kept, and who is told."""

    folder: RunFolder
    progress: Progress = field(default_factory=Progress)
    #: key of a cell → how often it had failed when this process first looked at it
    before: dict[str, int] = field(default_factory=dict)

    def left(self, cell: PlannedCell) -> list[int]:
        """The places of the examples that a cell lacks."""
        stored = self.folder.cells.scores(cell.key)
        self.before.setdefault(cell.key, stored.failures)
        return stored.missing(cell.task.keys)

    def settled(self, cell: PlannedCell) -> bool:
        """Whether another process has settled a cell since this one first looked; it is told."""
        left, stored = self.left(cell), self.folder.cells.scores(cell.key)
        failed = stored.failed if left and stored.failures > self.before[cell.key] else None
        if left and failed is None:
            return False
        self.show(cell)
        self.progress.settled(cell, f"failed: {failed.reason}" if failed else "done")
        return True

    def fail(self, cell: PlannedCell, reason: str) -> None:
        """Keep why a cell cannot be computed."""
        self.folder.cells.keep(cell.identity, Failed(reason=reason, time=time.time()))
        self.progress.settled(cell, f"failed: {reason}")

    def show(self, cell: PlannedCell) -> None:
        """Tell how many examples of a cell are there."""
        self.progress.at(cell, len(cell.task) - len(self.left(cell)))

    def add(self, cell: PlannedCell, block: Block) -> None:
        """Keep a block."""
        self.folder.cells.keep(cell.identity, block)
        self.folder.grown(cell.key)
        self.show(cell)

    def done(self, cell: PlannedCell) -> None:
        """A cell is whole."""
        self.aggregate(cell)
        self.progress.settled(cell, "done")

    def aggregate(self, cell: PlannedCell) -> None:
        """Keep lm-eval's aggregates over the examples of a cell, where they are all there."""
        stored, keys = self.folder.cells.scores(cell.key), cell.task.keys
        examples = examples_sha256(keys)
        if examples not in stored.aggregates and not stored.missing(keys):
            columns = {name: stored.values(name, keys) or [] for name in stored.metrics()}
            line = Aggregates(examples=examples, values=cell.task.aggregates(columns))
            self.folder.cells.keep(cell.identity, line)


def compute(cells: Sequence[PlannedCell], backend: Backend, work: CellWork) -> None:
    """Compute until every cell is done or has failed, here or in another process.

    Raises:
        RunFolderError: The run folder cannot be written.
        LostDeviceError: The accelerator is of no more use to this process.
    """
    waiting = list(cells)
    while waiting:
        held = [cell for cell in waiting if not _attempt(cell, backend, work)]
        if len(held) == len(waiting):
            time.sleep(PAUSE_SECONDS)
        waiting = held


def _attempt(cell: PlannedCell, backend: Backend, work: CellWork) -> bool:
    """Compute a cell under its lock; False where another process holds that."""
    lock = work.folder.take(cell.key)
    if lock is None:
        return False
    try:
        if work.settled(cell):
            return True
        with work.folder.begun(cell.key) as deaths:
            if deaths >= MOST_DEATHS:
                why = f"{deaths} processes ended while they computed it: to try it again, delete "
                work.fail(cell, f"{why}{work.folder.locks}")
            else:
                _compute(cell, backend, work)
    finally:
        lock.release()
    return True


def _compute(cell: PlannedCell, backend: Backend, work: CellWork) -> None:
    """Compute what is missing of a cell."""
    work.show(cell)
    share = len(cell.task) / len(cell.task.instances(range(len(cell.task))))
    backend.progress = lambda requests: work.progress.advance(cell, requests * share)
    try:
        for block in blocks(cell, cell.blocks(work.left(cell), backend.device_kind), backend):
            work.add(cell, block)
        work.done(cell)
    except RunFolderError:
        raise
    except Exception as error:
        if not isinstance(error, AuracError):
            logger.debug("cell %s failed", cell.label, exc_info=True)
        work.fail(cell, reason_of(error))
        raise_if_lost(error, cell)


def raise_if_lost(error: Exception, cell: PlannedCell) -> None:
    """Raise a LostDeviceError where an error of a cell is that of all that follow here.

    That is an error of CUDA other than a lack of memory, and vLLM's `EngineDeadError`, by its name:
    vLLM need not be installed here.
    """
    cause: BaseException | None = error
    while cause and all(kind.__name__ != "EngineDeadError" for kind in type(cause).__mro__):
        cause = cause.__cause__ or cause.__context__
    if cause or ("CUDA error" in str(error) and not no_memory(error)):
        what = "the engine has died" if cause else "the accelerator is lost"
        raise LostDeviceError(
            f"{what} since {cell.label} ({first_line(error)}); what is done is kept, and the same "
            "command goes on"
        ) from error


def blocks(cell: PlannedCell, places: Sequence[Sequence[int]], backend: Backend) -> Iterator[Block]:
    """The outcomes of some of a cell's examples, given by their places."""
    backend.prepare(cell.task)
    limit = cell.task.token_limit
    for part in places:
        began = time.perf_counter()
        with backend.lm(cell.cut) as lm:
            answers = cell.task.ask(lm, part)
            outcome = cell.task.judge(part, answers)
            cut_off = None if limit is None else _cut_off(answers, len(part), backend, limit)
        yield Block(
            documents=[cell.task.keys[place] for place in part],
            **vars(outcome),
            unfinished=cut_off,
            seconds=round(time.perf_counter() - began, 3),
        )


def _cut_off(
    answers: Sequence[Sequence[str]], examples: int, backend: Backend, limit: int
) -> list[bool]:
    """For each example whether an answer to one of its requests reached the token limit."""
    known = iter(backend.unfinished([text for texts in answers for text in texts], limit))
    each = [sum(next(known) for _ in texts) > 0 for texts in answers]
    share = len(each) // examples
    return [any(each[at : at + share]) for at in range(0, len(each), share)]


def reason_of(error: BaseException) -> str:
    """One line of an error."""
    if isinstance(error, AuracError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
