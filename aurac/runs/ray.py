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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.curves.question import Key
from aurac.errors import AuracError, UsageError, first_line
from aurac.models.device import WAIT_POLICY
from aurac.records.folder import MOST_DEATHS
from aurac.records.lines import Block
from aurac.runs.compute import LostDeviceError, Work, blocks, raise_if_lost, reason_of
from aurac.runs.fit import Fit, fits
from aurac.runs.inputs import Inputs, load
from aurac.runs.plan import PlannedCell
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from filelock import FileLock


_PATIENCE = 1.0  # seconds between looks at signals and at cells of other processes
_LOST_AFTER = 5.0  # seconds without an answer of the head; Ray itself waits a minute
_ANSWERS_IN = 5.0  # seconds


class ClusterError(AuracError):
    """The cluster cannot be reached or was lost, or its workers cannot serve."""

    exit_code = 3


@dataclass(frozen=True)
class Job:
    """What a worker must know: names and settings, no weights."""

    settings: Settings
    names: dict[str, str]  #: hash of an adapter → its name in the run
    folder: str  #: that of the command, to which paths in settings and in task files are relative

    @classmethod
    def of(cls, inputs: Inputs) -> Job:
        """That of a run, given in the working folder of this process."""
        base, device = inputs.base, inputs.backend.device_kind
        changes = {"base": base.name, "dtype": base.dtype, "device": device, "ray": None}
        names = {adapter.sha256: name for name, adapter in inputs.adapters.items()}
        return cls(msgspec.structs.replace(inputs.settings, **changes), names, str(Path.cwd()))


@contextlib.contextmanager
def cluster(inputs: Inputs) -> Iterator[Cluster]:
    """A connection to the cluster of a run, or a cluster of this machine, for the block.

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
    address = str(inputs.settings.ray)
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
        yield Cluster(ray, inputs)
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(f"the Ray cluster was lost ({first_line(error)})") from error
    finally:
        ray.shutdown()


class Cluster:
    """Workers that find factors and compute cells."""

    def __init__(self, ray: Any, inputs: Inputs) -> None:
        self._ray, self._inputs, self._job = ray, inputs, Job.of(inputs)
        kind = "GPU" if inputs.backend.device_kind == "cuda" else "CPU"
        self._slots = int(ray.cluster_resources().get(kind, 0))
        if not self._slots:
            raise ClusterError(f"the Ray cluster {inputs.settings.ray} has no {kind}")
        self._head = _Head(str(ray.get_runtime_context().gcs_address))
        # max_calls 0: a worker with a GPU would otherwise end, and its base with it, each time.
        self._how = {"num_cpus": 1, "num_gpus": int(kind == "GPU"), "max_calls": 0}

    def find(self, keys: Sequence[str]) -> Iterator[float]:
        """The factors of these hashes (`aurac.runs.fit.fits`), in order."""
        task = self._ray.remote(max_retries=MOST_DEATHS - 1, **self._how)(find)
        for found in [task.remote(self._job, key) for key in keys]:
            while not self._ray.wait([found], timeout=_PATIENCE)[0]:
                self._head.check()
            yield float(_got(self._ray, found))

    def compute(self, cells: Sequence[PlannedCell], work: Work) -> None:
        """Compute cells until each is done or has failed, as many at once as there is room for."""
        task = self._ray.remote(num_returns="streaming", max_retries=0, **self._how)(answer)
        leaves = self._inputs.leaves

        def submit(cell: PlannedCell, places: list[list[int]]) -> Any:
            factor = cell.cut.factor if cell.cut else None
            where = cell.row, cell.rank, leaves.index(cell.task), factor
            return task.remote(self._job, cell.key, where, places)

        driver = _Driver(self._ray, submit, work, self._inputs.backend.device_kind)
        try:
            driver.run(cells, self._slots + 1, self._head)
        finally:
            driver.close()


def _got(ray: Any, reference: Any) -> Any:
    """A result; a ClusterError where the worker raised an error."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None) or error
        raise ClusterError(f"a Ray worker cannot serve: {reason_of(cause)}") from error


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

    def __init__(self, ray: Any, submit: Callable[..., Any], work: Work, device_kind: str) -> None:
        self._ray, self._to_worker = ray, submit
        self._work, self._device_kind = work, device_kind
        self._open: dict[Any, _Open] = {}

    def run(self, cells: Sequence[PlannedCell], most: int, head: _Head) -> None:
        """Work until every cell is settled, here or in another process."""
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
        lock = self._work.folder.take(cell.key)
        if lock is None:
            waiting.append(cell)
        elif self._work.settled(cell):
            lock.release()
        else:
            self._work.begin(cell)
            self._submit(_Open(cell, lock))

    def _submit(self, entry: _Open) -> None:
        places = entry.cell.blocks(self._work.left(entry.cell), self._device_kind)
        self._open[self._to_worker(entry.cell, places)] = entry

    def _collect(self, stream: Any) -> None:
        """Take in a block, the end of a cell, or its failure."""
        errors, work, entry = self._ray.exceptions, self._work, self._open[stream]
        try:
            result = _got(self._ray, next(stream))
        except StopIteration:
            work.done(entry.cell)
            self._close(stream)
        except errors.RaySystemError:
            raise
        except errors.RayError as error:  # the worker, its node, or what it has sent, is gone
            entry.deaths += 1
            if entry.deaths < MOST_DEATHS:
                del self._open[stream]
                self._submit(entry)
            else:
                why = f"{entry.deaths} workers died while they computed it ({first_line(error)})"
                work.fail(entry.cell, why)
                self._close(stream)
        else:
            if isinstance(result, str):
                work.fail(entry.cell, result)
                self._close(stream)
            else:
                entry.deaths = 0
                work.add(entry.cell, result)
                work.progress.advance(entry.cell, len(result.documents))

    def _close(self, stream: Any) -> None:
        self._open.pop(stream).lock.release()

    def close(self) -> None:
        """Give up what has not come back."""
        for stream in list(self._open):
            with contextlib.suppress(Exception):
                self._ray.cancel(stream, force=True)
            self._close(stream)


_CACHE: dict[str, tuple[Inputs, dict[str, Fit]]] = {}
"""In a worker: the job that it served last, with the base and the adapter in use."""


def _inputs(job: Job) -> tuple[Inputs, dict[str, Fit]]:
    """In a worker: what is evaluated, and the factors that it needs by their hashes."""
    name = repr(job)
    if name not in _CACHE:
        _CACHE.clear()
        with contextlib.suppress(OSError):  # only relative paths need the folder here
            os.chdir(job.folder)
        inputs = load(job.settings, names=job.names)
        _CACHE[name] = inputs, fits(inputs)
    return _CACHE[name]


def find(job: Job, key: str) -> float:
    """In a worker: a factor."""
    inputs, wanted = _inputs(job)
    if key not in wanted:
        raise _other(inputs)
    return wanted[key].best(inputs.backend)


def answer(
    job: Job,
    key: str,
    where: tuple[Key | None, int, int, float | None],
    places: list[list[int]],
) -> Iterator[Block | str]:
    """In a worker: the blocks of a cell, and at last why it failed, if it did.

    `where` are its row (None: the base), its rank, the number of its task, and its factor. A worker
    whose accelerator is lost ends: another one takes the cell.
    """
    inputs, _ = _inputs(job)
    row, rank, task, factor = where
    cut = replace(inputs.cuts[row][rank], factor=factor) if row else None
    cell = PlannedCell(inputs.leaves[task], inputs.digest, inputs.tokens, row, cut)
    if cell.key != key:
        raise _other(inputs)
    try:
        yield from blocks(cell, places, inputs.backend)
    except Exception as error:  # noqa: BLE001 - whatever it is, the cell has failed
        try:
            raise_if_lost(error, cell)
        except LostDeviceError:
            os._exit(1)
        yield reason_of(error)


def _other(inputs: Inputs) -> ClusterError:
    return ClusterError(
        f"a worker would compute something else ({inputs.identity}): every node needs the same "
        "packages, base, adapters, data and kind of device"
    )
