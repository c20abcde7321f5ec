"""Evaluates planned cells on one loaded base, together with whoever else works in the folder.

Each cell is taken under a lease, so that processes share the work; one that fails leaves a record
of its reason and does not stop the rest; one that does not fit into memory is tried again with
half the batch.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from aurac.adapters import attach, prepare
from aurac.errors import AuracError
from aurac.interrupts import Interrupts
from aurac.runlog import Profile, RunLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from aurac.bases import LoadedBase
    from aurac.evaluation.built import CellOutcome
    from aurac.evaluation.checkpoint import Checkpoint
    from aurac.evaluation.options import EngineOptions
    from aurac.provenance import CellIdentity
    from aurac.sweep import PlannedCell, Variant

logger = logging.getLogger(__name__)

MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed
_LEAST_TOKENS, _LEAST_CACHE, _MOST_SEQUENCES = 64, 512, 256
_LONGEST_PAUSE = 2.0
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")


class LostDeviceError(AuracError):
    """An accelerator that answers nothing more in this process; other cells would fail with it."""

    exit_code = 3


class Leasing(Protocol):
    """Who works on what: see `aurac.leases`."""

    def acquire(self, key: str) -> bool: ...  # noqa: D102

    def release(self, key: str) -> None: ...  # noqa: D102

    def lost(self, key: str) -> bool: ...  # noqa: D102

    def generation(self, key: str) -> int: ...  # noqa: D102


class Keeping(Protocol):
    """Where outcomes go: see `aurac.store`."""

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

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """Until every cell is done or failed, here or in another process.

        Raises:
            RunFolderError: The run folder cannot be written.
            Interrupted: A signal came; the cell in flight was dropped.
            LostDeviceError: The accelerator is of no more use to this process.
        """
        elsewhere, pause = self._one_round(cells), 0.1
        while elsewhere:
            self.tools.log.event("waiting", cells=len(elsewhere))
            before = len(elsewhere)
            time.sleep(pause)
            elsewhere = self._one_round(elsewhere)
            pause = 0.1 if len(elsewhere) < before else min(2 * pause, _LONGEST_PAUSE)

    def _one_round(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Compute what nobody has or holds; what others hold is returned."""
        settled = self.store.keys() | self.store.failed_keys()
        open_cells = [cell for cell in cells if cell.identity.key not in settled]
        self.tools.on_documents(sum(c.task.n_requests for c in cells if c.identity.key in settled))
        elsewhere: list[PlannedCell] = []
        for variant, group in _by_variant(open_cells):
            with contextlib.ExitStack() as stack:
                switch = Switch(self, variant, stack)
                for cell in group:
                    self.tools.interrupts.check()
                    if not self._under_lease(cell, switch):
                        elsewhere.append(cell)
        return elsewhere

    def _under_lease(self, cell: PlannedCell, switch: Switch) -> bool:
        """Whether the cell is settled now; False where another process holds or took it."""
        key, leases = cell.identity.key, self.tools.leases
        if not self._acquire(key):
            return False
        try:
            if self.store.has(key) or key in self.store.failed_keys():
                self.tools.on_documents(cell.task.n_requests)
                return True
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
        from aurac.store import cannot_write

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
            reason = _reason(error)
            if not isinstance(error, AuracError):
                logger.debug("cell %s failed", cell.label, exc_info=True)
            self._fail(cell, reason, type(error).__name__, time.perf_counter() - started)
            _stop_if_device_is_lost(error, cell)
            return True
        if self.tools.leases.lost(cell.identity.key):
            self.tools.log.event("lease lost", key=cell.identity.key, cell=cell.label)
            return False
        self._keep(cell, outcome, time.perf_counter() - started)
        return True

    def _evaluate(self, cell: PlannedCell, switch: Switch) -> CellOutcome:
        """The cell's outcome, with half the batch each time that memory does not suffice."""
        from aurac.evaluation.checkpoint import checkpointing
        from aurac.evaluation.watch import watched

        tools = self.tools
        while True:
            counted = _Counter(tools.on_documents)
            try:
                with tools.profile.spent("adapter"):
                    switch.to(cell.rank)
                base = switch.base
                check, wait = tools.interrupts.check, tools.wait_for_device
                began = time.perf_counter()
                checkpoint = self.store.checkpoint(cell.identity.key)
                with watched(base.model, check, wait=wait) as watch, checkpointing(checkpoint):
                    outcome = cell.task.evaluate(base.model, base.tokenizer, self.options, counted)
                watch.check()
                tools.profile.add("forward", watch.seconds, watch.passes)
                tools.profile.add("rest of cells", time.perf_counter() - began - watch.seconds)
                return outcome
            except (MemoryError, RuntimeError) as error:
                smaller = _halved(self.options, switch.base.model) if _no_memory(error) else None
                if smaller is None:
                    raise
            # Here, beyond the handler, nothing refers to the tensors of the failed pass any more.
            counted.take_back()
            self._take_smaller(cell, smaller)

    def _take_smaller(self, cell: PlannedCell, smaller: EngineOptions) -> None:
        note = (
            f"out of memory: from here on at most {smaller.batch_tokens} tokens and "
            f"{smaller.batch_size} sequences in a pass"
        )
        self.options, self._notes = smaller, [note]
        logger.warning("%s: %s", cell.label, note)
        self.tools.log.event("out of memory", cell=cell.label, batch_tokens=smaller.batch_tokens)
        _free_memory()

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
        runner: Gives the base and the variant's factors.
        variant: None is the base alone.
        stack: Holds the adapter; closing it restores the base.
    """

    def __init__(
        self, runner: Runner, variant: Variant | None, stack: contextlib.ExitStack
    ) -> None:
        self._runner, self._variant, self._stack = runner, variant, stack
        self._live: Any = None

    @property
    def base(self) -> LoadedBase:
        """The base in memory."""
        return self._runner.base()

    def to(self, rank: int) -> None:
        """Set the rank; 0 for the base alone."""
        if self._variant is None:
            return
        if self._live is None:
            prepared = self._runner.prepared(self._variant)
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


def _by_variant(
    cells: Iterable[PlannedCell],
) -> Iterator[tuple[Variant | None, list[PlannedCell]]]:
    """Consecutive cells of one variant together, so that its factors are attached once."""
    for _, group in itertools.groupby(cells, key=lambda cell: id(cell.variant)):
        members = list(group)
        yield members[0].variant, members


def _reason(error: BaseException) -> str:
    if isinstance(error, AuracError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _no_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY)


def _halved(options: EngineOptions, model: Any) -> EngineOptions | None:
    """Half of every budget; None where they are as small as they may be."""
    from aurac.evaluation.running import pass_tokens

    tokens = options.batch_tokens or pass_tokens(model)
    sequences = options.batch_size or _MOST_SEQUENCES
    if tokens <= _LEAST_TOKENS and sequences == 1 and options.cache_tokens <= _LEAST_CACHE:
        return None
    return replace(
        options,
        batch_tokens=max(_LEAST_TOKENS, tokens // 2),
        batch_size=max(1, sequences // 2),
        cache_tokens=max(_LEAST_CACHE, options.cache_tokens // 2),
    )


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stop_if_device_is_lost(error: BaseException, cell: PlannedCell) -> None:
    """After an error of the accelerator itself every later cell of this process would fail."""
    if "CUDA error" in str(error) and not _no_memory(error):
        raise LostDeviceError(
            f"the accelerator is lost since {cell.label} ({_reason(error)})",
            fix="give the same command again to go on without that cell",
        ) from error
