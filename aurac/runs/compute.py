"""Computes cells in this process, together with whoever else works in the run folder.

A cell is computed block by block, and each block is kept as soon as it is there. A cell that fails
keeps its reason and does not stop the rest; the same command tries it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from aurac.backends.keys import redacted
from aurac.errors import AuracError, RunFolderError, first_line
from aurac.models.device import no_memory
from aurac.records.cells import CellStore
from aurac.records.folder import MOST_DEATHS, Locks
from aurac.records.lines import Aggregates, Block, Failed
from aurac.runs.plan import Cell
from aurac.runs.progress import Progress

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # between rounds in which others hold all cells
_PREPARED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Backend → the tasks whose requests it has tokenised."""


class LostDeviceError(AuracError):
    """An accelerator that answers nothing more in this process; other cells would fail with it."""

    exit_code = 3


@dataclass(eq=False)
class Work:
    """Where cells are kept, who has which, and who is told."""

    store: CellStore
    locks: Locks
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.time)

    def left(self, cell: Cell) -> list[int]:
        """The places of the examples that a cell lacks."""
        return self.store.scores(cell.key).missing(cell.documents)

    def settled(self, cell: Cell) -> bool:
        """Whether a cell is done, or has failed since this command began."""
        failed = self.store.scores(cell.key).failed
        return not self.left(cell) or (failed is not None and failed.time >= self.started)

    def fail(self, cell: Cell, reason: str) -> None:
        """Keep why a cell cannot be computed, without keys."""
        reason = redacted(reason)
        self.store.append(cell.identity, Failed(reason=reason, time=time.time()))
        self.progress.settled(cell, f"failed: {reason}")

    def add(self, cell: Cell, block: Block) -> None:
        """Keep a block."""
        self.store.append(cell.identity, block)
        self.locks.grown(cell.key)

    def done(self, cell: Cell) -> None:
        """A cell is whole."""
        self.aggregate(cell)
        self.progress.settled(cell, "done")

    def aggregate(self, cell: Cell) -> None:
        """Keep lm-eval's aggregates over the examples of a whole cell that are asked for."""
        stored, documents = self.store.scores(cell.key), cell.documents
        if len(documents) not in stored.aggregates:
            columns = {name: stored.values(name, documents) for name in stored.metrics()}
            values = cell.task.aggregates({k: c for k, c in columns.items() if c is not None})
            line = Aggregates(examples=len(documents), values=values)
            self.store.append(cell.identity, line)


def compute(cells: Sequence[Cell], backend: Any, work: Work, device_kind: str) -> None:
    """Until every cell is done or failed, here or in another process.

    Raises:
        RunFolderError: The run folder cannot be written.
        LostDeviceError: The accelerator is of no more use to this process.
    """
    waiting = list(cells)
    while waiting:
        held = [cell for cell in waiting if not _attempt(cell, backend, work, device_kind)]
        if len(held) == len(waiting):
            time.sleep(PAUSE_SECONDS)
        waiting = held


def _attempt(cell: Cell, backend: Any, work: Work, device_kind: str) -> bool:
    """Compute a cell under its lock; False where another process holds that."""
    if work.settled(cell):
        return True
    lock = work.locks.take(cell.key)
    if lock is None:
        return False
    try:
        if work.settled(cell):
            return True
        with work.locks.begun(cell.key) as deaths:
            if deaths >= MOST_DEATHS:
                work.fail(cell, f"{deaths} processes ended while they computed it")
            else:
                _compute(cell, backend, work, device_kind)
    finally:
        lock.release()
    return True


def _compute(cell: Cell, backend: Any, work: Work, device_kind: str) -> None:
    """Compute what is missing of a cell."""
    work.progress.begin(cell)
    model = getattr(backend, "model", None)
    try:
        if model is not None:
            share = len(cell.task) / len(cell.task.instances(range(len(cell.task))))
            model.progress = lambda requests: work.progress.advance(cell, requests * share)
        for block in blocks(cell, cell.blocks(work.left(cell), device_kind), backend):
            work.add(cell, block)
            if model is None:
                work.progress.advance(cell, len(block.documents))
        work.done(cell)
    except RunFolderError:
        raise
    except Exception as error:
        if not isinstance(error, AuracError):
            logger.debug("cell %s failed", cell.label, exc_info=True)
        work.fail(cell, reason_of(error))
        if "CUDA error" in str(error) and not no_memory(error):
            raise LostDeviceError(
                f"the accelerator is lost since {cell.label} ({error})"
            ) from error


def blocks(cell: Cell, places: Sequence[Sequence[int]], backend: Any) -> Iterator[Block]:
    """The outcomes of some of a cell's examples, given by their places."""
    _prepare(backend, cell.task)
    for part in places:
        began = time.perf_counter()
        with _silence(backend), backend.lm(cell.cut) as lm:
            outcome = cell.task.judge(part, cell.task.ask(lm, part))
        yield Block(
            documents=[cell.documents[place] for place in part],
            metrics=outcome.metrics,
            responses=outcome.responses,
            greedy=outcome.greedy,
            filtered=outcome.filtered,
            seconds=round(time.perf_counter() - began, 3),
        )


def _silence(backend: Any) -> AbstractContextManager[None]:
    """Keeps what lm-eval's own models say from the terminal; the engine's warnings are ours."""
    if getattr(backend, "model", None) is not None:
        return nullcontext()
    from aurac.tasks.build import quiet

    return quiet()


def _prepare(backend: Any, task: Any) -> None:
    """Have the engine tokenise a task once for all cells, and find what its prompts share."""
    if (model := getattr(backend, "model", None)) is not None:
        tasks = _PREPARED.setdefault(backend, set())
        if task.name not in tasks:
            tasks.add(task.name)
            model.prepare(task.instances(range(len(task))))


def reason_of(error: BaseException) -> str:
    """One line of an error."""
    if isinstance(error, AuracError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
