"""Evaluates planned cells on one loaded base, together with whoever else works in the folder.

A cell is computed block by block, and each block is kept as soon as it is there. Processes share
the cells through locks. A cell that fails leaves a record of its reason and does not stop the rest;
a block that does not fit into memory is tried again with half the batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aurac.adapters import attach, prepare
from aurac.errors import AuracError, RunFolderError
from aurac.models.device import no_memory
from aurac.runs.device_limits import free_memory, halved, stop_if_device_is_lost
from aurac.runs.interrupts import Interrupts
from aurac.runs.log import Profile, RunLog
from aurac.runs.schema import Aggregates, Block, Budgets, EngineCounts, Logged
from aurac.runs.store import cannot_write, documents_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aurac.engine import EngineOptions
    from aurac.models.base import LoadedBase
    from aurac.runs.plan import PlannedCell, Variant
    from aurac.runs.store import CellStore
    from aurac.tasks.metrics import Outcome
    from aurac.tasks.task import Evaluation

logger = logging.getLogger(__name__)

MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed
PAUSE_SECONDS = 1.0  # between rounds in which others hold all cells


class Locking(Protocol):
    """Who works on what: see `aurac.runs.lock`."""

    def acquire(self, key: str) -> bool: ...  # noqa: D102

    def release(self, key: str) -> None: ...  # noqa: D102

    def deaths(self, key: str) -> int: ...  # noqa: D102

    def clear_deaths(self, key: str) -> None: ...  # noqa: D102

    def step(self) -> None: ...  # noqa: D102


class NoLocks:
    """Locks that are always free, for a process that shares its cells with no other."""

    def acquire(self, key: str) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def release(self, key: str) -> None:
        """Nothing to do."""

    def deaths(self, key: str) -> int:  # noqa: ARG002
        """None."""
        return 0

    def clear_deaths(self, key: str) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Nothing to do."""


@dataclass
class RunContext:
    """What a runner works with beside the cells.

    Attributes:
        locks: Who works on what.
        interrupts: Whether to stop.
        log: Where events go.
        profile: Where time goes.
        wait_for_device: Wait for each pass, so that its time is its own.
        on_documents: Called with the number of requests answered since the last call, here or by
            others.
        on_cell: Called before each cell that is computed.
        on_settled: Called with each cell that has ended and how, see `NoProgress.settled`.
    """

    locks: Locking = field(default_factory=NoLocks)
    interrupts: Interrupts = field(default_factory=Interrupts)
    log: RunLog = field(default_factory=lambda: RunLog(None))
    profile: Profile = field(default_factory=Profile)
    wait_for_device: bool = False
    on_documents: Callable[[int], None] = lambda _count: None
    on_cell: Callable[[PlannedCell], None] = lambda _cell: None
    on_settled: Callable[[PlannedCell, str], None] = lambda _cell, _outcome: None


class Runner:
    """Evaluates cells and puts them, or the reasons why there are none, into the store.

    Args:
        base: Gives the base model in memory; called when the first cell is computed.
        store: Where cells are kept.
        options: Budgets of the engine.
        context: See there.
    """

    def __init__(
        self,
        base: Callable[[], LoadedBase],
        store: CellStore,
        options: EngineOptions,
        context: RunContext,
    ) -> None:
        self._base, self.store, self.options, self.context = base, store, options, context
        self._notes: list[str] = []
        self._prepared: dict[str, Any] = {}
        self._settled: set[str] = set()  # cells whose end `on_settled` was told of

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """Until every cell is done or failed, here or in another process.

        Raises:
            BaseModelError: The base cannot be loaded; no cell is recorded as failed for that.
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; the block in flight was dropped.
            LostDeviceError: The accelerator is of no more use to this process.
        """
        while cells := self._unsettled(cells):
            if not self._round(cells):
                self.context.log.event("waiting", cells=len(cells))
                time.sleep(PAUSE_SECONDS)

    def _unsettled(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        """The cells that have neither all documents nor a record of failure."""
        failed = self.store.failed_keys()
        left = []
        for cell in cells:
            key = cell.identity.key
            done = self.store.count(key) >= len(cell.documents)
            if not done and key not in failed:
                left.append(cell)
            elif key not in self._settled:
                self._settled.add(key)
                self.context.on_documents(cell.task.n_requests)
                self.context.on_settled(cell, f"{'done' if done else 'failed'} by another process")
        return left

    def _round(self, cells: Sequence[PlannedCell]) -> bool:
        """Go over the cells once and compute those that are free; whether any was."""
        taken = False
        with contextlib.ExitStack() as stack:
            switch = AdapterSwitch(self, stack)
            for cell in cells:
                self.context.interrupts.check()
                self.context.locks.step()
                taken |= self._take(cell, switch)
        return taken

    def _take(self, cell: PlannedCell, switch: AdapterSwitch) -> bool:
        """Compute a cell under a lock; False where another process has done or holds it."""
        key, locks = cell.identity.key, self.context.locks
        if self._is_settled(cell) or not self._acquire(key):
            return False
        try:
            if self._is_settled(cell):
                return False
            if locks.deaths(key) >= MOST_DEATHS:
                reason = f"{locks.deaths(key)} processes ended while they computed it"
                self._fail(cell, reason, "Died", 0.0, cell.task.n_requests)
                return True
            with self.context.interrupts.working():
                self.compute(cell, switch)
        finally:
            locks.release(key)
        self.context.interrupts.check()
        return True

    def _is_settled(self, cell: PlannedCell) -> bool:
        key = cell.identity.key
        return self.store.count(key) >= len(cell.documents) or self.store.has_failed(key)

    def _acquire(self, key: str) -> bool:
        try:
            return self.context.locks.acquire(key)
        except OSError as error:
            raise cannot_write(self.store.run_folder, error) from error

    def compute(self, cell: PlannedCell, switch: AdapterSwitch) -> None:
        """Compute what is missing of a cell; it is settled then, as a cell or as a failure.

        Raises:
            BaseModelError, LostDeviceError, RunFolderError: See `run`.
        """
        self.base()
        self.context.on_cell(cell)
        counter = _Counter(self.context.on_documents)
        self.context.log.event("begin", key=cell.identity.key, cell=cell.label)
        started = time.perf_counter()
        try:
            self._complete(cell, switch, counter)
        except RunFolderError:
            raise
        except Exception as error:
            reason = reason_of(error)
            if not isinstance(error, AuracError):
                logger.debug("cell %s failed", cell.label, exc_info=True)
            seconds = time.perf_counter() - started
            uncounted = cell.task.n_requests - counter.count
            self._fail(cell, reason, type(error).__name__, seconds, uncounted)
            stop_if_device_is_lost(error, cell)
            return
        self._done(cell, time.perf_counter() - started)

    def _complete(self, cell: PlannedCell, switch: AdapterSwitch, counter: _Counter) -> None:
        """Add the missing blocks, and what is said of all documents together."""
        identity = cell.identity
        stored = self.store.read(identity.key, cell.documents)
        missing = cell.missing(stored)
        there = len(cell.documents) - len(missing)
        counter(cell.task.n_requests - cell.requests(missing))
        for block in self.blocks(cell, missing, switch, counter):
            there += len(block.documents)
            with self.context.profile.spent("store"):
                self.store.append(identity, block, there)
            self.context.locks.clear_deaths(identity.key)
        if self.store.count(identity.key) != len(cell.documents):
            self.store.recount(identity, len(cell.documents))
        keep_aggregates(cell, self.store)

    def blocks(
        self,
        cell: PlannedCell,
        places: Sequence[int],
        switch: AdapterSwitch,
        on_requests: Callable[[int], None] = lambda _count: None,
    ) -> Iterator[Block]:
        """Evaluate some of a cell's documents, with half the batch where memory does not suffice.

        Args:
            cell: The cell.
            places: Which of its documents.
            switch: Attaches its adapter.
            on_requests: Called with the number of requests answered since the last call.
        """
        waiting = cell.blocks(places)
        evaluation = self._evaluation(cell, switch) if waiting else None
        while waiting and evaluation is not None:
            counted = _Counter(on_requests)
            try:
                block = self._block(cell, evaluation, waiting[0], switch, counted)
            except Exception as error:
                counted.take_back()
                full = isinstance(error, (MemoryError, RuntimeError)) and no_memory(error)
                smaller = halved(self.options, switch.base.model) if full else None
                if smaller is None:
                    raise
            else:
                waiting.pop(0)
                yield block
                continue
            # Here, beyond the handler, nothing refers to the tensors of the failed pass any more.
            self._take_smaller(cell, smaller)
            evaluation = self._evaluation(cell, switch)

    def _evaluation(self, cell: PlannedCell, switch: AdapterSwitch) -> Evaluation:
        with self.context.profile.spent("adapter"):
            switch.to(cell.variant, cell.rank)
        base = switch.base
        return cell.task.evaluation(base.model, base.tokenizer, self.options)

    def _block(
        self,
        cell: PlannedCell,
        evaluation: Evaluation,
        places: Sequence[int],
        switch: AdapterSwitch,
        progress: Callable[[int], None],
    ) -> Block:
        from aurac.engine.counts import watched

        began = time.perf_counter()
        wait = self.context.wait_for_device
        with watched(switch.base.model, self._before_pass, wait=wait) as watch:
            outcome = evaluation.block(places, progress)
        watch.check()
        seconds = time.perf_counter() - began
        self.context.profile.add("forward", watch.seconds, watch.passes)
        self.context.profile.add("rest of cells", seconds - watch.seconds)
        return block_of(cell, places, outcome, self.options, seconds, self._notes)

    def _before_pass(self) -> None:
        self.context.locks.step()
        self.context.interrupts.check()

    def _take_smaller(self, cell: PlannedCell, smaller: EngineOptions) -> None:
        note = (
            f"out of memory: from here on at most {smaller.batch_tokens} tokens and "
            f"{smaller.batch_size} sequences in a pass"
        )
        self.options, self._notes = smaller, [note]
        logger.warning("%s: %s", cell.label, note)
        self.context.log.event("out of memory", cell=cell.label, batch_tokens=smaller.batch_tokens)
        free_memory()

    def _done(self, cell: PlannedCell, seconds: float) -> None:
        self.context.log.event(
            "cell",
            key=cell.identity.key,
            cell=cell.label,
            task=cell.task.name,
            requests=cell.task.n_requests,
            seconds=round(seconds, 3),
        )
        self.context.profile.effort += cell.task.effort
        self._settled.add(cell.identity.key)
        self.context.on_settled(cell, f"done in {seconds:.1f} s")

    def _fail(
        self, cell: PlannedCell, reason: str, kind: str, seconds: float, uncounted: int
    ) -> None:
        with self.context.profile.spent("store"):
            self.store.fail(cell.identity, failure_content(cell, reason, kind, seconds))
        self.context.log.event("failed", key=cell.identity.key, cell=cell.label, reason=reason)
        self._settled.add(cell.identity.key)
        self.context.on_documents(uncounted)
        self.context.on_settled(cell, "failed")

    def prepared(self, variant: Variant) -> Any:
        """The variant's factors in its basis, made once: a variant comes back at every level."""
        if variant.label not in self._prepared:
            self._prepared[variant.label] = prepare(
                variant.adapter, variant.basis, variant.rescale, fit_factors=variant.fit_factors
            )
        return self._prepared[variant.label]

    def base(self) -> LoadedBase:
        """The base in memory."""
        with self.context.profile.spent("load"):
            return self._base()


class AdapterSwitch:
    """Attaches a variant when the first of its cells is computed, and sets ranks after that.

    Args:
        runner: Gives the base and the variants' factors.
        stack: Holds the adapter; closing it restores the base.
    """

    def __init__(self, runner: Runner, stack: contextlib.ExitStack) -> None:
        self._runner, self._stack = runner, stack
        self._variant: Variant | None = None
        self._live: Any = None

    @property
    def base(self) -> LoadedBase:
        """The base in memory."""
        return self._runner.base()

    def to(self, variant: Variant | None, rank: int) -> None:
        """Set the variant, None for the base alone, and its rank."""
        if variant is not self._variant:
            self._stack.close()
            self._variant, self._live = variant, None
        if variant is None:
            return
        if self._live is None:
            prepared = self._runner.prepared(variant)
            self._live = self._stack.enter_context(attach(self.base.model, prepared))
        self._live.set_rank(rank)


class _Counter:
    """Requests counted in one attempt, to be taken back if it is given up."""

    def __init__(self, on_requests: Callable[[int], None]) -> None:
        self._on_requests, self.count = on_requests, 0

    def __call__(self, count: int) -> None:
        self.count += count
        self._on_requests(count)

    def take_back(self) -> None:
        self._on_requests(-self.count)


def block_of(
    cell: PlannedCell,
    places: Sequence[int],
    outcome: Outcome,
    options: EngineOptions,
    seconds: float,
    notes: Sequence[str],
) -> Block:
    """What the store keeps of some documents of a cell."""
    return Block(
        documents=[cell.documents[place] for place in places],
        metrics={key: [float(x) for x in column] for key, column in outcome.metrics.items()},
        responses=outcome.responses,
        logged=Logged(**outcome.logged),
        engine=EngineCounts(**outcome.engine),
        budgets=Budgets(
            batch_tokens=options.batch_tokens,
            batch_size=options.batch_size,
            cache_tokens=options.cache_tokens,
            packed=options.packed,
        ),
        seconds=round(seconds, 3),
        notes=list(notes),
    )


def keep_aggregates(cell: PlannedCell, store: CellStore) -> None:
    """Keep the metrics over all documents that are no means, where the task has any."""
    whole = store.read(cell.identity.key, cell.documents)
    if whole is None or whole.missing:
        return
    values = cell.task.leaf.aggregates({**whole.metrics, **whole.logged.other})
    values = {key: value for key, value in values.items() if math.isfinite(value)}
    if values and values != whole.aggregates:
        content = Aggregates(documents_sha256=documents_hash(whole.documents), values=values)
        store.append(cell.identity, content, len(cell.documents))


def failure_content(cell: PlannedCell, reason: str, kind: str, seconds: float) -> dict[str, Any]:
    """What the record of a failed cell holds beside its identity."""
    return {"cell": cell.label, "reason": reason, "kind": kind, "seconds": round(seconds, 3)}


def reason_of(error: BaseException) -> str:
    """One line for a record of failure."""
    if isinstance(error, AuracError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
