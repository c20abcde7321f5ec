"""Cells on a Ray cluster: each is a task, which streams its blocks to this process.

A task carries settings and hashes, never a model: adapters, base and data lie at the same paths on
every node. This process alone writes, under a lock: the workers need no shared folder. A
worker that dies loses a block.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from aurac.backends.backend import Backend
from aurac.errors import AuracError, UsageError, first_line
from aurac.models.device import WAIT_POLICY
from aurac.records.folder import MOST_DEATHS
from aurac.records.lines import Block, Written, examples_sha256
from aurac.runs.compute import CellWork, LostDeviceError, blocks, raise_if_lost, reason_of
from aurac.runs.fit import Fit, fits
from aurac.runs.inputs import Inputs, load
from aurac.runs.plan import PlannedCell
from aurac.runs.settings import Settings
from aurac.runs.written import Wanted, written

if TYPE_CHECKING:
    from filelock import FileLock


Job = tuple[bytes, str]
"""Settings, and the folder of the command, to which paths in them and in tasks are relative."""
Where = tuple[int | None, int, int, str, float | None]
"""The number of a cell's curve (None: the base), its rank, the number of its task, the hash of its
examples, and its factor."""
_PATIENCE = 1.0  # seconds between looks at signals and at cells of other processes
_LOST_AFTER = 5.0  # seconds without an answer of the head; Ray itself waits a minute
_ANSWERS_IN = 5.0  # seconds


class ClusterError(AuracError):
    """The cluster cannot be reached or was lost, or its workers cannot serve."""

    exit_code = 3


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
    """Workers that find factors and compute cells, each under a lock of this process."""

    def __init__(self, ray: Any, inputs: Inputs) -> None:
        self._ray, self._inputs, base = ray, inputs, inputs.base
        self._device = inputs.backend.device_kind
        kind = "GPU" if self._device == "cuda" else "CPU"
        self._slots = int(ray.cluster_resources().get(kind, 0))
        if not self._slots:
            raise ClusterError(f"the Ray cluster {inputs.settings.ray} has no {kind}")
        self._head, self._seen = str(ray.get_runtime_context().gcs_address), time.monotonic()
        # max_calls 0: a worker with a GPU would otherwise end, and its base with it, each time.
        how = {"num_cpus": 1, "num_gpus": int(kind == "GPU"), "max_calls": 0}
        self._find = ray.remote(max_retries=MOST_DEATHS - 1, **how)(find)
        self._answer = ray.remote(num_returns="streaming", max_retries=0, **how)(answer)
        self._write = ray.remote(max_retries=0, **how)(write)
        changes = {"base": base.name, "dtype": base.dtype, "device": self._device, "ray": None}
        told = msgspec.structs.replace(inputs.settings, **changes)
        self._job = msgspec.json.encode(told), str(Path.cwd())
        self._open: dict[Any, tuple[PlannedCell, FileLock]] = {}
        self._deaths = Counter[str]()

    def find(self, keys: Sequence[str]) -> Iterator[float]:
        """The factors of these hashes (`aurac.runs.fit.fits`), in order."""
        for found in [self._find.remote(self._job, key) for key in keys]:
            while not self._ray.wait([found], timeout=_PATIENCE)[0]:
                self._seen = _seen(self._head, self._seen)
            yield float(_got(self._ray, found))

    def write(self, cell: PlannedCell, wanted: Wanted) -> Written:
        """What is written in the place of references (`aurac.runs.written`), by a worker."""
        line = _got(self._ray, self._write.remote(self._job, cell.key, self._where(cell), wanted))
        return cast("Written", line)

    def compute(self, cells: Sequence[PlannedCell], work: CellWork) -> None:
        """Compute cells until each is done or has failed, as many at once as there is room for."""
        waiting = deque(cells)
        try:
            while waiting or self._open:
                for _ in range(len(waiting)):
                    if len(self._open) <= self._slots:
                        self._take(waiting, work)
                if self._open:
                    streams = list(self._open)
                    for stream in self._ray.wait(streams, num_returns=1, timeout=_PATIENCE)[0]:
                        self._collect(stream, work)
                else:
                    time.sleep(_PATIENCE)
                self._seen = _seen(self._head, self._seen)
        finally:
            for stream in list(self._open):
                with contextlib.suppress(Exception):
                    self._ray.cancel(stream, force=True)
                self._close(stream)

    def _take(self, waiting: deque[PlannedCell], work: CellWork) -> None:
        """Submit the next cell; one that another process holds is tried again last."""
        cell = waiting.popleft()
        lock = work.folder.take(cell.key)
        if lock is None:
            waiting.append(cell)
        elif work.settled(cell):
            lock.release()
        else:
            self._submit(cell, lock, work)

    def _submit(self, cell: PlannedCell, lock: FileLock, work: CellWork) -> None:
        places = cell.blocks(work.left(cell), self._device)
        work.show(cell)
        self._open[self._answer.remote(self._job, cell.key, self._where(cell), places)] = cell, lock

    def _where(self, cell: PlannedCell) -> Where:
        curve = [*self._inputs.cuts].index(cell.curve_key) if cell.curve_key else None
        factor = cell.cut.factor if cell.cut else None
        examples = examples_sha256(cell.task.keys)
        return curve, cell.rank, self._inputs.leaves.index(cell.task), examples, factor

    def _collect(self, stream: Any, work: CellWork) -> None:
        """Take in a block, the end of a cell, or its failure."""
        errors, (cell, lock) = self._ray.exceptions, self._open[stream]
        try:
            result = _got(self._ray, next(stream))
        except StopIteration:
            work.done(cell)
        except errors.RaySystemError:
            raise
        except errors.RayError as error:  # the worker, its node, or what it has sent, is gone
            self._deaths[cell.key] += 1
            if (deaths := self._deaths[cell.key]) < MOST_DEATHS:
                del self._open[stream]
                self._submit(cell, lock, work)
                return
            work.fail(cell, f"{deaths} workers died while they computed it ({first_line(error)})")
        else:
            if not isinstance(result, str):
                self._deaths[cell.key] = 0
                work.add(cell, result)
                return
            work.fail(cell, result)
        self._close(stream)

    def _close(self, stream: Any) -> None:
        _, lock = self._open.pop(stream)
        lock.release()


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


def _seen(head: str, before: float) -> float:
    """When the head was seen last; a ClusterError where it has not answered for a while."""
    try:
        _connect(head)
    except OSError as error:
        if time.monotonic() - before > _LOST_AFTER:
            raise ClusterError(
                f"the Ray cluster was lost ({head}: {first_line(error)}); what is done is kept, "
                "and the same command goes on"
            ) from error
        return before
    return time.monotonic()


@lru_cache(maxsize=1)
def _served(settings: bytes, folder: str) -> tuple[Inputs, dict[str, Fit]]:
    """In a worker: what is evaluated, and the factors that it needs by their hashes."""
    with contextlib.suppress(OSError):  # only relative paths need the folder here
        os.chdir(folder)
    inputs = load(msgspec.json.decode(settings, type=Settings))
    return inputs, fits(inputs)


def find(job: Job, key: str) -> float:
    """In a worker: a factor."""
    inputs, wanted = _served(*job)
    return wanted[key].best(inputs.backend)


def write(job: Job, key: str, where: Where, wanted: Wanted) -> Written:
    """In a worker: what is written in the place of references."""
    cell, backend = _planned(job, key, where)
    return written(cell, wanted, backend)


def answer(job: Job, key: str, where: Where, places: list[list[int]]) -> Iterator[Block | str]:
    """In a worker: the blocks of a cell, and at last why it failed, if it did.

    A worker whose accelerator is lost ends: another one takes the cell.
    """
    cell, backend = _planned(job, key, where)
    try:
        yield from blocks(cell, places, backend)
    except Exception as error:  # noqa: BLE001 - whatever it is, the cell has failed
        try:
            raise_if_lost(error, cell)
        except LostDeviceError:
            os._exit(1)
        yield reason_of(error)


def _planned(job: Job, key: str, where: Where) -> tuple[PlannedCell, Backend]:
    """In a worker: the cell of this key, and who answers for it."""
    inputs, _ = _served(*job)
    curve, rank, task, examples, factor = where
    about: tuple[Any, ...] = ()
    if curve is not None:
        name, cuts = [*inputs.cuts.items()][curve]
        about = name, replace(cuts[rank], factor=factor)
    cell = PlannedCell(inputs.leaves[task], inputs.digest, inputs.tokens, *about)
    if (cell.key, examples_sha256(cell.task.keys)) != (key, examples):
        raise ClusterError(
            f"a worker would compute something else ({inputs.identity}): every node needs the same "
            "packages, base, adapters, data and kind of device"
        )
    return cell, inputs.backend
