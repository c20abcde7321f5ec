"""Cells on a Ray cluster: each block of documents is a task, which Ray places and repeats.

A task carries a job (settings, names and hashes), a cell's identity and the places of its
documents, never a model. What a worker computed comes back as the task's value, and this process
alone writes it, under a lock: the workers need no shared folder. Documents of `--data` lie at the
same path on every node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters import members_of
from aurac.errors import AuracError, UsageError, first_line
from aurac.models.device import share_cores
from aurac.records.cell import Block, CellIdentity, Failure
from aurac.runs.plan import PlannedCell
from aurac.runs.runner import Executor, RunContext, failure_of
from aurac.runs.session import Session
from aurac.runs.settings import NamedCheckpoint

if TYPE_CHECKING:
    from aurac.runs.ray_worker import ClusterJob

logger = logging.getLogger(__name__)

RETRIES = 3  # workers that may die in one block before its cell counts as failed
_ANSWERS_IN = 10.0  # seconds
_LOST_AFTER = 5.0  # seconds without an answer of the head
_PATIENCE = 1.0  # seconds between looks at signals and at cells of other processes


class ClusterError(AuracError):
    """The cluster cannot be reached, or has no worker that can serve."""


class ClusterLostError(ClusterError):
    """The cluster was there and is not any more; what is done is kept."""

    exit_code = 3

    def __init__(self, why: str) -> None:
        fix = "what is done is kept: give the same command again"
        super().__init__(f"the Ray cluster was lost ({why})", fix=fix)


class RayExecutor(Executor):
    """Runs blocks as tasks of a Ray cluster, at most `workers` at a time (None: as many as fit).

    Without an address it starts a cluster on this machine; without Ray it is a UsageError.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        super().__init__()
        self._address, self._workers = address, workers
        self._ray = _ray()
        self._connected = False

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._connected = False

    def run(self, session: Session, cells: Sequence[PlannedCell], context: RunContext) -> None:
        """See `Executor`."""
        ray = self._ray
        gpus = 1 if session.outline.device.startswith("cuda") else 0
        if not self._connected:
            self._open.enter_context(_cluster(ray, self._address, self._workers, context))
            self._connected = True
        # max_calls 0: a worker with a GPU would otherwise end, and its base with it, each time.
        how = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 0}
        task = ray.remote(**how)(compute_block)
        slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
        if gpus and not slots:
            logger.warning("the Ray cluster has no GPU now: cells wait until one joins")
        # One more than run at a time: a worker finds its next block waiting.
        most = self._workers or slots + 1
        queue = _Queue(ray, task, ray.put(_job(session)), context, cells)
        client = self._address and self._address.startswith("ray://")  # its server is on the head
        head = _Head(str(self._address if client else ray.get_runtime_context().gcs_address))
        try:
            while queue.submit(most):
                context.go_on()
                queue.collect()
                head.check()
        except (ray.exceptions.RaySystemError, ConnectionError) as error:
            raise ClusterLostError(first_line(error)) from error
        finally:
            queue.cancel()


class _Head:
    """The head of the cluster: Ray itself ends a process a minute after it is gone."""

    def __init__(self, address: str) -> None:
        self._address, self._seen = address, time.monotonic()

    def check(self) -> None:
        """Raise a `ClusterLostError` where it has not answered for a while."""
        try:
            _check_address(self._address, greets=False)
            self._seen = time.monotonic()
        except OSError as error:
            if time.monotonic() - self._seen > _LOST_AFTER:
                raise ClusterLostError(f"{self._address}: {first_line(error)}") from error


@dataclass(eq=False)
class _Open:
    """A cell whose blocks are being computed, under a lock of this process."""

    cell: PlannedCell
    waiting: deque[list[int]]
    there: int
    requests: int
    running: int = 0
    answered: int = 0  # requests
    started: float = field(default_factory=time.perf_counter)


class _Queue:
    """Blocks that wait, and tasks that have been submitted to Ray."""

    def __init__(
        self, ray: Any, task: Any, job: Any, context: RunContext, cells: Sequence[PlannedCell]
    ) -> None:
        self._ray, self._task, self._job = ray, task, job
        self._context = context
        self._cells = deque(cells)
        self._open: dict[str, _Open] = {}
        self._running: dict[Any, _Open] = {}

    def submit(self, most: int) -> bool:
        """Submit blocks up to `most` tasks at a time; whether anything is left to do."""
        tried = 0
        while len(self._running) < most:
            entry = next((entry for entry in self._open.values() if entry.waiting), None)
            if entry is not None:
                identity, places = entry.cell.identity, entry.waiting.popleft()
                whole = entry.cell.task.places  # the worker has all documents of the task
                places = places if whole is None else [whole[place] for place in places]
                reference = self._task.remote(self._job, identity, places)
                self._running[reference] = entry
                entry.running += 1
            elif tried < len(self._cells):
                tried += 1
                self._take_up(self._cells.popleft())
            else:
                break
        return bool(self._cells or self._running)

    def _take_up(self, cell: PlannedCell) -> None:
        """Take the next free cell; a locked one is tried again last."""
        context, key = self._context, cell.identity.key
        state = context.take(cell)
        if state == "held":
            self._cells.append(cell)
        if state != "taken":
            return
        missing = cell.missing(context.store.read(key, cell.documents, cell.scoring))
        context.progress.cell(cell)
        there, requests = len(cell.documents) - len(missing), cell.requests(missing)
        entry = _Open(cell, deque(cell.blocks(missing)), there, requests)
        self._open[key] = entry
        self._count(entry, cell.task.n_requests - requests)
        if not missing:
            context.store.recount(cell.identity, len(cell.documents), cell.scoring)
            self._close(entry)

    def _count(self, entry: _Open, requests: int) -> None:
        entry.answered += requests
        self._context.progress.documents(requests)

    def collect(self) -> None:
        """Take in what has come back within a second."""
        if not self._running:
            time.sleep(_PATIENCE)
            return
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE)
        for reference in done:
            entry = self._running.pop(reference)
            entry.running -= 1
            result = self._result(entry.cell, reference)
            if entry.cell.identity.key not in self._open:
                continue  # another of its blocks has failed
            if isinstance(result, Block):
                self._add(entry, result)
            else:
                uncounted = entry.cell.task.n_requests - entry.answered
                self._context.failed(entry.cell, result, uncounted)
                self._forget(entry)

    def _result(self, cell: PlannedCell, reference: Any) -> Block | Failure:
        """A block, or the record of a failure."""
        errors = self._ray.exceptions
        try:
            result: Block | Failure = self._ray.get(reference)
        except errors.RayTaskError as error:
            # an error of the worker's set-up: no cell of the run can be computed there
            cause = getattr(error, "cause", None)
            reason = cause.text if isinstance(cause, AuracError) else first_line(cause or error)
            raise ClusterError(f"a Ray worker cannot serve: {reason}") from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            reason = f"{RETRIES + 1} workers died while they computed it ({first_line(error)})"
            return failure_of(cell, reason, type(error).__name__)
        return result

    def _add(self, entry: _Open, block: Block) -> None:
        entry.there += len(block.documents)
        cell = entry.cell
        self._context.store.append(cell.identity, block, entry.there, cell.scoring)
        places = [cell.documents.index(key) for key in block.documents]
        self._count(entry, cell.requests(places))
        if not entry.waiting and not entry.running:
            self._close(entry)

    def _close(self, entry: _Open) -> None:
        """All documents of a cell are there."""
        self._context.add_aggregates(entry.cell)
        seconds = time.perf_counter() - entry.started
        self._context.done(entry.cell, seconds, entry.requests)
        self._forget(entry)

    def _forget(self, entry: _Open) -> None:
        key = entry.cell.identity.key
        del self._open[key]
        self._context.locks.release(key)

    def cancel(self) -> None:
        """Give up what has not come back."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        for entry in list(self._open.values()):
            self._forget(entry)


def compute_block(job: ClusterJob, identity: CellIdentity, places: list[int]) -> Block | Failure:
    """The task: see `aurac.runs.ray_worker`, which a worker imports when it is first used."""
    share_cores()  # before the import, which loads torch
    from aurac.runs.ray_worker import compute

    return compute(job, identity, places)


def _job(session: Session) -> ClusterJob:
    from aurac.runs.ray_worker import ClusterJob

    settings, outline = session.settings, session.outline
    data = {task: Path(folder).resolve() for task, folder in settings.task.data.items()}
    device = outline.device.split(":")[0]
    return ClusterJob(
        checkpoints=[NamedCheckpoint.of(c).absolute for c in session.checkpoints],
        adapters=[[m.sha256 for m in members_of(a)] for a in session.adapters.values()],
        names={adapter.sha256: name for name, adapter in session.adapters.items()},
        base=(NamedCheckpoint(None, (outline.name,)).absolute, outline.sha256),
        tasks=session.tasks,
        settings=replace(
            settings,
            task=replace(settings.task, data=data),
            model=replace(settings.model, dtype=outline.dtype, device=device),
        ),
        factors={
            (v.adapter.sha256, v.basis): v.fit_factors for v in session.variants if v.fit_factors
        },
    )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor ray needs Ray, which is not installed",
            fix="pip install 'aurac[ray]' here and on every node",
        ) from error
    return ray


@contextlib.contextmanager
def _cluster(
    ray: Any, address: str | None, workers: int | None, context: RunContext
) -> Iterator[None]:
    """A connection to the cluster, or a cluster of this machine for the length of the block."""
    local = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        _check_address(os.environ.get("RAY_ADDRESS") if address in (None, "auto") else address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached "
            f"({first_line(error)})",
            fix="check `ray status`, and --address",
        ) from error
    context.interrupts.renew()  # Ray sets a handler of its own
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str | None, *, greets: bool = True) -> None:
    """Raise an OSError if nobody answers, or no gRPC server: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    with socket.create_connection((host, int(port)), _ANSWERS_IN) as connection:
        if greets:  # an HTTP/2 server answers the preface with a frame of settings (RFC 9113, 3.4)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            if connection.recv(4)[3:] != b"\x04":
                raise OSError("something else than Ray answers there")
