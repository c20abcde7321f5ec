"""Evaluates planned cells on one loaded base, together with whoever else works in the folder.

Each cell is taken under a lease, so that processes share the work; one that fails leaves a record
of its reason and does not stop the rest; one that does not fit into memory is tried again with
half the batch.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aurac.adapters import attach, prepare
from aurac.errors import AuracError
from aurac.runs.cell_content import cell_content, failure_content, reason_of
from aurac.runs.device_limits import free_memory, halved, no_memory, stop_if_device_is_lost
from aurac.runs.interrupts import Interrupts
from aurac.runs.log import Profile, RunLog
from aurac.runs.walk import ENTRIES_FOR_A_LOOK, TRIED_AT_ONCE, after, leaps, pause_after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aurac.engine.checkpoint import Checkpoint
    from aurac.engine.options import EngineOptions
    from aurac.models.base import LoadedBase
    from aurac.runs.plan import PlannedCell, Variant
    from aurac.runs.provenance import CellIdentity
    from aurac.tasks.task import CellOutcome

logger = logging.getLogger(__name__)

MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed


class Leasing(Protocol):
    """Who works on what: see `aurac.runs.lock`."""

    def acquire(self, key: str) -> bool: ...  # noqa: D102

    def release(self, key: str) -> None: ...  # noqa: D102

    def lost(self, key: str) -> bool: ...  # noqa: D102

    def generation(self, key: str) -> int: ...  # noqa: D102

    def keys(self) -> set[str]: ...  # noqa: D102

    def step(self) -> None: ...  # noqa: D102


class Keeping(Protocol):
    """Where outcomes go: see `aurac.runs.store`."""

    run_folder: Path

    def keys(self) -> set[str]: ...  # noqa: D102

    def failed_keys(self) -> set[str]: ...  # noqa: D102

    def has(self, key: str) -> bool: ...  # noqa: D102

    def put(self, identity: CellIdentity, content: dict[str, Any]) -> Path: ...  # noqa: D102

    def fail(self, identity: CellIdentity, content: dict[str, Any]) -> None: ...  # noqa: D102

    def checkpoint(self, key: str) -> Checkpoint | None: ...  # noqa: D102

    def has_partial(self, key: str) -> bool: ...  # noqa: D102


class Alone:
    """Leases of a process that shares its cells with nobody."""

    def acquire(self, key: str) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def release(self, key: str) -> None:
        """Nothing to give back."""

    def lost(self, key: str) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def generation(self, key: str) -> int:  # noqa: ARG002
        """The first."""
        return 1

    def keys(self) -> set[str]:
        """Nobody holds anything."""
        return set()

    def step(self) -> None:
        """Nobody looks on."""


@dataclass
class Tools:
    """What a runner works with beside the cells.

    Attributes:
        leases: Who works on what.
        interrupts: Whether to stop.
        log: Where events go.
        profile: Where time goes.
        wait_for_device: Wait for each pass, so that its time is its own.
        on_documents: Called with the number of requests answered since the last call, here or by
            others.
        on_cell: Called before each cell that is computed.
    """

    leases: Leasing = field(default_factory=Alone)
    interrupts: Interrupts = field(default_factory=Interrupts)
    log: RunLog = field(default_factory=lambda: RunLog(None))
    profile: Profile = field(default_factory=Profile)
    wait_for_device: bool = False
    on_documents: Callable[[int], None] = lambda _count: None
    on_cell: Callable[[PlannedCell], None] = lambda _cell: None


class Runner:
    """Evaluates cells and puts them, or the reasons why there are none, into the store.

    Args:
        base: Gives the base model in memory; called when the first cell is computed.
        store: Where cells are kept.
        options: Budgets of the engine.
        tools: See there.
    """

    def __init__(
        self,
        base: Callable[[], LoadedBase],
        store: Keeping,
        options: EngineOptions,
        tools: Tools,
    ) -> None:
        self._base, self.store, self.options, self.tools = base, store, options, tools
        self._notes: list[str] = []
        self._prepared: dict[int, Any] = {}
        self._counted: set[str] = set()  # cells whose requests `on_documents` was told of
        self._listed = 0  # cells in the folder, when it was last listed
        self._draw = random.Random()  # noqa: S311 - only so that two processes do not walk alike

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """Until every cell is done or failed, here or in another process.

        Raises:
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; the cell in flight was dropped.
            LostDeviceError: The accelerator is of no more use to this process.
        """
        pause: float | None = None
        while cells := self._unsettled(cells):
            if self._one_round(cells):
                pause = None
                continue
            self.tools.log.event("waiting", cells=len(cells))
            pause = pause_after(pause, len(cells))
            time.sleep(pause)

    def _unsettled(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        """The cells that have neither a result nor a record of failure; the others are counted."""
        settled = self._stored(cells) | self.store.failed_keys()
        uncounted = settled - self._counted
        news = [cell for cell in cells if cell.identity.key in uncounted]
        self._counted.update(cell.identity.key for cell in news)
        self.tools.on_documents(sum(cell.task.n_requests for cell in news))
        return [cell for cell in cells if cell.identity.key not in settled]

    def _stored(self, cells: Sequence[PlannedCell]) -> set[str]:
        """Keys of stored cells, these among them: listed, or looked for where few are left."""
        if self._listed > ENTRIES_FOR_A_LOOK * len(cells):
            return {cell.identity.key for cell in cells if self.store.has(cell.identity.key)}
        found = self.store.keys()
        self._listed = len(found)
        return found

    def _one_round(self, cells: Sequence[PlannedCell]) -> bool:
        """Walk over the cells once and compute those that are free; whether any was.

        Where others hold all of them, some are tried: their holders may be gone.
        """
        held = self.tools.leases.keys()
        free = [cell for cell in cells if cell.identity.key not in held]
        tried = free or self._draw.sample(list(cells), min(len(cells), TRIED_AT_ONCE))
        taken = False
        with contextlib.ExitStack() as stack:
            switch = Switch(self, stack)
            walk = leaps(len(tried), self._draw)
            place = next(walk, None)
            while place is not None:
                cell = tried[place]
                self.tools.interrupts.check()
                self.tools.leases.step()
                mine = self._take(cell, switch)
                taken |= mine
                place = after(walk, free=mine or not free)
        return taken

    def _take(self, cell: PlannedCell, switch: Switch) -> bool:
        """Compute a cell under a lease; False where another process has done, holds or took it."""
        key, leases = cell.identity.key, self.tools.leases
        if self.store.has(key) or not self._acquire(key):
            return False
        try:
            if self.store.has(key) or key in self.store.failed_keys():
                return False
            deaths = leases.generation(key) - 1
            if deaths >= MOST_DEATHS and not self.store.has_partial(key):
                self._fail(cell, f"{deaths} processes ended while they computed it", "Died", 0.0)
                return True
            with self.tools.interrupts.working():
                settled = self.compute(cell, switch)
        finally:
            leases.release(key)
        self.tools.interrupts.check()
        return settled

    def _acquire(self, key: str) -> bool:
        from aurac.runs.store import cannot_write

        try:
            return self.tools.leases.acquire(key)
        except OSError as error:
            raise cannot_write(self.store.run_folder, error) from error

    def compute(self, cell: PlannedCell, switch: Switch) -> bool:
        """Compute one cell; whether it is settled now, as a cell or as a failure.

        Raises:
            LostDeviceError: See `run`.
        """
        self.tools.on_cell(cell)
        self.tools.log.event("begin", key=cell.identity.key, cell=cell.label)
        started = time.perf_counter()
        try:
            outcome = self._evaluate(cell, switch)
        except Exception as error:
            reason = reason_of(error)
            if not isinstance(error, AuracError):
                logger.debug("cell %s failed", cell.label, exc_info=True)
            self._fail(cell, reason, type(error).__name__, time.perf_counter() - started)
            stop_if_device_is_lost(error, cell)
            return True
        if self.tools.leases.lost(cell.identity.key):
            self.tools.log.event("lease lost", key=cell.identity.key, cell=cell.label)
            self.tools.on_documents(-cell.task.n_requests)  # counted when the other's cell is there
            return False
        self._counted.add(cell.identity.key)
        self._keep(cell, outcome, time.perf_counter() - started)
        return True

    def _evaluate(self, cell: PlannedCell, switch: Switch) -> CellOutcome:
        """The cell's outcome, with half the batch each time that memory does not suffice."""
        from aurac.engine.checkpoint import checkpointing
        from aurac.engine.watch import watched

        tools = self.tools
        while True:
            counted = _Counter(tools.on_documents)
            try:
                with tools.profile.spent("adapter"):
                    switch.to(cell.variant, cell.rank)
                base = switch.base
                wait = tools.wait_for_device
                began = time.perf_counter()
                checkpoint = self.store.checkpoint(cell.identity.key)
                with (
                    watched(base.model, self._before_pass, wait=wait) as watch,
                    checkpointing(checkpoint),
                ):
                    outcome = cell.task.evaluate(base.model, base.tokenizer, self.options, counted)
                watch.check()
                tools.profile.add("forward", watch.seconds, watch.passes)
                tools.profile.add("rest of cells", time.perf_counter() - began - watch.seconds)
                return outcome
            except Exception as error:
                counted.take_back()
                full = isinstance(error, (MemoryError, RuntimeError)) and no_memory(error)
                smaller = halved(self.options, switch.base.model) if full else None
                if smaller is None:
                    raise
            # Here, beyond the handler, nothing refers to the tensors of the failed pass any more.
            self._take_smaller(cell, smaller)

    def _before_pass(self) -> None:
        self.tools.leases.step()
        self.tools.interrupts.check()

    def _take_smaller(self, cell: PlannedCell, smaller: EngineOptions) -> None:
        note = (
            f"out of memory: from here on at most {smaller.batch_tokens} tokens and "
            f"{smaller.batch_size} sequences in a pass"
        )
        self.options, self._notes = smaller, [note]
        logger.warning("%s: %s", cell.label, note)
        self.tools.log.event("out of memory", cell=cell.label, batch_tokens=smaller.batch_tokens)
        free_memory()

    def _keep(self, cell: PlannedCell, outcome: CellOutcome, seconds: float) -> None:
        with self.tools.profile.spent("store"):
            self.store.put(cell.identity, cell_content(cell, outcome, seconds, self._notes))
        self.tools.log.event(
            "cell",
            key=cell.identity.key,
            cell=cell.label,
            task=cell.task.name,
            requests=cell.task.n_requests,
            seconds=round(seconds, 3),
        )

    def _fail(self, cell: PlannedCell, reason: str, kind: str, seconds: float) -> None:
        with self.tools.profile.spent("store"):
            self.store.fail(cell.identity, failure_content(cell, reason, kind, seconds))
        self.tools.log.event("failed", key=cell.identity.key, cell=cell.label, reason=reason)

    def prepared(self, variant: Variant) -> Any:
        """The variant's factors in its basis, made once: a variant comes back at every level."""
        if id(variant) not in self._prepared:
            self._prepared[id(variant)] = prepare(
                variant.adapter, variant.basis, variant.rescale, fit_factors=variant.fit_factors
            )
        return self._prepared[id(variant)]

    def base(self) -> LoadedBase:
        """The base in memory."""
        with self.tools.profile.spent("load"):
            return self._base()


class Switch:
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
    """Documents counted in one attempt, to be taken back if it is given up."""

    def __init__(self, on_documents: Callable[[int], None]) -> None:
        self._on_documents, self._count = on_documents, 0

    def __call__(self, count: int) -> None:
        self._count += count
        self._on_documents(count)

    def take_back(self) -> None:
        self._on_documents(-self._count)
