"""Cells on a Ray cluster: each is a task, which streams its blocks to this process.

A task carries settings, names and hashes, never a model: adapters, base and data lie at the same
paths on every node. This process alone writes, under a lock: the workers need no shared folder. A
worker that dies loses a block.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.adapters.checkpoints import NamedCheckpoint
from aurac.adapters.cut import Sweep
from aurac.errors import AuracError, UsageError, first_line
from aurac.models.device import WAIT_POLICY
from aurac.records.lines import Block
from aurac.runs.compute import LostDeviceError, Work, blocks, raise_if_lost, reason_of
from aurac.runs.inputs import Inputs, load
from aurac.runs.plan import PlannedCell, plan
from aurac.runs.settings import Settings
from aurac.tasks.listing import is_file

if TYPE_CHECKING:
    from filelock import FileLock


MOST_DEATHS = 4  # workers that may die in a row within one cell before it counts as failed
_PATIENCE = 1.0  # seconds between looks at signals and at cells of other processes
_LOST_AFTER = 5.0  # seconds without an answer of the head; Ray itself waits a minute
_ANSWERS_IN = 5.0  # seconds


class ClusterError(AuracError):
    """The cluster cannot be reached or was lost, or its workers cannot serve."""

    exit_code = 3


@dataclass(frozen=True)
class Job:
    """What a worker must know: names, hashes and settings, no weights."""

    settings: Settings  #: with absolute paths
    names: dict[str, str]  #: hash of an adapter → its name in the run
    digest: str  #: hash of the run's settings
    #: (adapter, basis) → rank → factor, of rescale `fit`
    factors: dict[tuple[str, str], dict[int, float]]


def compute_on_ray(
    inputs: Inputs, sweeps: Sequence[Sweep], cells: Sequence[PlannedCell], work: Work
) -> None:
    """Until every cell is done or failed, as many at a time as the cluster has room for.

    Raises:
        UsageError: Ray is not installed.
        ClusterError: The cluster cannot be reached, was lost, or its workers cannot serve.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--ray needs Ray: pip install 'aurac[ray]' here and on every node"
        ) from error
    gpus = 1 if inputs.backend.device_kind == "cuda" else 0
    with _cluster(ray, str(inputs.settings.ray)):
        # max_calls 0: a worker with a GPU would otherwise end, and its base with it, each time.
        how = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "max_calls": 0}
        task = ray.remote(num_returns="streaming", **how)(answer)
        kind = "GPU" if gpus else "CPU"
        slots = int(ray.cluster_resources().get(kind, 0))
        if not slots:
            raise ClusterError(f"the Ray cluster {inputs.settings.ray} has no {kind}")
        head = _Head(str(ray.get_runtime_context().gcs_address))
        job = ray.put(_job(inputs, sweeps))
        driver = _Driver(ray, task, job, work, inputs.backend.device_kind)
        try:
            driver.run(cells, slots + 1, head)
        except (ray.exceptions.RaySystemError, ConnectionError) as error:
            raise ClusterError(f"the Ray cluster was lost ({first_line(error)})") from error
        finally:
            driver.close()


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster, or a cluster of this machine for the length of the block."""
    where: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address == "local":
        where["include_dashboard"] = False
    environment = {WAIT_POLICY: "PASSIVE"}  # threads that wait for each other sleep
    try:
        if ":" in address:
            _connect(address)  # Ray itself would try for minutes
        ray.init(logging_level=logging.ERROR, runtime_env={"env_vars": environment}, **where)
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ClusterError(f"the Ray cluster {address} cannot be reached ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Raise an OSError where nobody answers."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    with socket.create_connection((host, int(port)), _ANSWERS_IN):
        pass


class _Head:
    """The head of the cluster."""

    def __init__(self, address: str) -> None:
        self._address, self._seen = address, time.monotonic()

    def check(self) -> None:
        """Raise a ClusterError where it has not answered for a while."""
        try:
            _connect(self._address)
            self._seen = time.monotonic()
        except OSError as error:
            if time.monotonic() - self._seen > _LOST_AFTER:
                raise ClusterError(
                    f"the Ray cluster was lost ({self._address}: {first_line(error)}); what is "
                    "done is kept, and the same command goes on"
                ) from error


@dataclass(eq=False)
class _Open:
    """A cell that a worker computes, under a lock of this process."""

    cell: PlannedCell
    lock: FileLock
    deaths: int = 0


class _Driver:
    """Submits cells and keeps their blocks."""

    def __init__(self, ray: Any, task: Any, job: Any, work: Work, device_kind: str) -> None:
        self._ray, self._task, self._job = ray, task, job
        self._work, self._device_kind = work, device_kind
        self._open: dict[Any, _Open] = {}

    def run(self, cells: Sequence[PlannedCell], most: int, head: _Head) -> None:
        """Until every cell is settled, here or in another process."""
        waiting = deque(cells)
        while waiting or self._open:
            for _ in range(len(waiting)):
                if len(self._open) >= most:
                    break
                self._take(waiting)
            if self._open:
                ready, _ = self._ray.wait(list(self._open), num_returns=1, timeout=_PATIENCE)
                for stream in ready:
                    self._collect(stream)
            else:
                time.sleep(_PATIENCE)
            head.check()

    def _take(self, waiting: deque[PlannedCell]) -> None:
        """Submit the next cell; one that another process holds is tried again last."""
        cell = waiting.popleft()
        if self._work.settled(cell):
            return
        lock = self._work.folder.take(cell.key)
        if lock is None:
            waiting.append(cell)
        elif self._work.settled(cell):
            lock.release()
        else:
            self._work.begin(cell)
            self._submit(_Open(cell, lock))

    def _submit(self, entry: _Open) -> None:
        cell = entry.cell
        places = cell.blocks(self._work.left(cell), self._device_kind)
        self._open[self._task.remote(self._job, cell.key, places)] = entry

    def _collect(self, stream: Any) -> None:
        """Take in a block, the end of a cell, or its failure."""
        errors, entry = self._ray.exceptions, self._open[stream]
        try:
            result = self._ray.get(next(stream))
        except StopIteration:
            self._work.done(entry.cell)
            self._close(stream)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            raise ClusterError(f"a Ray worker cannot serve: {reason_of(cause)}") from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            del self._open[stream]
            entry.deaths += 1
            if entry.deaths < MOST_DEATHS:
                self._submit(entry)
            else:
                why = f"{entry.deaths} workers died while they computed it ({first_line(error)})"
                self._work.fail(entry.cell, why)
                entry.lock.release()
        else:
            self._keep(stream, entry, result)

    def _keep(self, stream: Any, entry: _Open, result: Block | str) -> None:
        if isinstance(result, str):
            self._work.fail(entry.cell, result)
            self._close(stream)
        else:
            entry.deaths = 0
            self._work.add(entry.cell, result)
            self._work.progress.advance(entry.cell, len(result.documents))

    def _close(self, stream: Any) -> None:
        self._open.pop(stream).lock.release()

    def close(self) -> None:
        """Give up what has not come back."""
        for stream in list(self._open):
            with contextlib.suppress(Exception):
                self._ray.cancel(stream, force=True)
            self._close(stream)


def _job(inputs: Inputs, sweeps: Sequence[Sweep]) -> Job:
    given = inputs.settings
    settings = msgspec.structs.replace(
        given,
        checkpoints=tuple(NamedCheckpoint.of(path).absolute for path in given.checkpoints),
        tasks=tuple(str(Path(t).resolve()) if is_file(t) else t for t in given.tasks),
        base=NamedCheckpoint(None, (inputs.base.name,)).absolute,
        dtype=inputs.base.dtype,
        device=inputs.backend.device_kind,
        data={task: str(Path(folder).resolve()) for task, folder in given.data.items()},
        include_path=str(Path(given.include_path).resolve()) if given.include_path else None,
        ray=None,
    )
    names = {adapter.sha256: name for name, adapter in inputs.adapters.items()}
    factors = {(s.name, str(s.basis)): dict(s.factors) for s in sweeps if s.factors}
    return Job(settings, names, inputs.digest, factors)


_CACHE: dict[str, tuple[Inputs, dict[str, PlannedCell]]] = {}
"""In a worker: the job that it served last, with the base and the adapter in use."""


def answer(job: Job, key: str, places: list[list[int]]) -> Iterator[Block | str]:
    """In a worker: the blocks of a cell, and at last why it failed, if it did.

    A worker whose accelerator is lost ends: another one takes the cell.
    """
    name = repr(job)
    if name not in _CACHE:
        _CACHE.clear()
        _CACHE[name] = _prepared(job)
    inputs, cells = _CACHE[name]
    try:
        yield from blocks(cells[key], places, inputs.backend)
    except Exception as error:  # noqa: BLE001 - whatever it is, the cell has failed
        try:
            raise_if_lost(error, cells[key])
        except LostDeviceError:
            os._exit(1)
        yield reason_of(error)


def _prepared(job: Job) -> tuple[Inputs, dict[str, PlannedCell]]:
    inputs = load(job.settings, names=job.names)
    if inputs.digest != job.digest:
        raise ClusterError(
            f"a worker would compute something else ({inputs.identity}): every node needs the "
            "same packages, base, data and kind of device"
        )
    sweeps = [
        replace(sweep, factors=job.factors[sweep.name, sweep.basis])
        if sweep.rescale == "fit"
        else sweep
        for sweep in inputs.sweeps
    ]
    cells = plan(sweeps, inputs.leaves, inputs.digest, inputs.tokens)
    return inputs, {cell.key: cell for cell in cells}
