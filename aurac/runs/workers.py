"""Cells on this machine: this process, and as many more as are asked for, one for each device.

The others are processes of their own (`python -m aurac.runs.workers`) that share the run folder
through its locks, exactly as a second terminal or another node would. One that dies loses the block
it was in; its lock tells.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from aurac.errors import AuracError
from aurac.models.device import share_cores
from aurac.records.store import CellStore
from aurac.runs.folder import recorded_names
from aurac.runs.interrupts import EXIT_INTERRUPTED, Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.plan import PlannedCell, Selection, selected, selection, shard_of
from aurac.runs.runner import Executor, RunContext, Runner
from aurac.runs.session import Session, open_session
from aurac.runs.settings import Execution, Settings

logger = logging.getLogger("aurac.runs.workers")

LINE = "%(levelname)s %(name)s: %(message)s"  # of a worker's log; the process above it reads it
_MESSAGE = re.compile(r"(WARNING|ERROR|CRITICAL) (aurac[\w.]*): (.*)")  # see `LINE`
_OF_WORKERS = "worker"  # a logger that is not aurac's: the command line sends it to the log file
_ENDS_IN = 30.0  # seconds that a worker may take to end once it is told to


@dataclass(frozen=True)
class Job:
    """What a further process of this machine reads first."""

    folder: Path
    checkpoints: Sequence[str]
    tasks: Sequence[str]
    settings: Settings
    shard: tuple[int, int] | None = None


def make_executor(execution: Execution) -> Executor:
    """The executor that was asked for; a UsageError where what it needs is not installed."""
    if execution.executor == "ray":
        from aurac.runs.ray import RayExecutor

        return RayExecutor(address=execution.address, workers=execution.workers)
    return LocalExecutor(execution)


class LocalExecutor(Executor):
    """Runs cells here and in `execution.workers - 1` further processes."""

    def __init__(self, execution: Execution) -> None:
        super().__init__()
        self._execution = execution
        self._workers: list[subprocess.Popen[bytes]] = []
        self._jobs: list[Job] = []

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._workers, self._jobs = [], []

    def run(self, session: Session, cells: Sequence[PlannedCell], context: RunContext) -> None:
        """See `Executor`."""
        spread = session.settings.model.device_map is not None  # one process has all devices
        workers = self._execution.workers or (1 if spread else None)
        devices = worker_devices(session.outline.device, workers)[: max(1, len(cells))]
        with _divided_threads(len(devices)) as threads:
            jobs = [self._job(session, context, device) for device in devices[1:]]
            if jobs != self._jobs[: len(jobs)]:  # of another session, or too few
                self.close()
                self._workers = self._open.enter_context(_others(jobs, threads, context))
                self._jobs = jobs
            for worker in self._workers:
                _send(worker, selection(cells))
            if not spread:
                session.place_on(devices[0])
            Runner(session.base, session.options, context).run(cells)

    def _job(self, session: Session, context: RunContext, device: str) -> Job:
        settings, folder = session.settings, context.store.run_folder.resolve()
        settings = replace(settings, model=replace(settings.model, device=device))
        return Job(folder, session.checkpoints, session.tasks, settings, self._execution.shard)


@contextlib.contextmanager
def _others(
    jobs: Sequence[Job], threads: int, context: RunContext
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Further workers; at the end they are told to end, and awaited."""
    workers: list[subprocess.Popen[bytes]] = []
    relays: list[threading.Thread] = []
    settled = False
    try:
        for job in jobs:
            workers.append(_start(job, threads))
            relays.append(threading.Thread(target=_relay, args=workers[-1:], daemon=True))
            relays[-1].start()
            device = job.settings.model.device
            context.log.event("worker", pid=workers[-1].pid, device=device)
        yield workers
        settled = True
    finally:
        # All cells are settled, or this process must end: either way the workers are done.
        early = [worker for worker in workers if worker.poll() is not None]
        for worker in workers:
            worker.terminate()
        for worker in workers:
            _end(worker, context, early=worker in early, settled=settled)
        for relay in relays:
            relay.join(_ENDS_IN)


def worker_devices(device: str, workers: int | None) -> list[str]:
    """The device of each worker: CUDA devices in turn, anything else shared by all.

    Without a number there is one worker for each CUDA device, or one in all.
    """
    if device != "cuda":
        return [device] * (workers or 1)
    devices = max(1, torch.cuda.device_count())
    return [f"cuda:{number % devices}" for number in range(workers or devices)]


@contextlib.contextmanager
def _divided_threads(workers: int) -> Iterator[int]:
    """This process's threads divided among the workers."""
    before = torch.get_num_threads()
    share = max(1, before // workers)
    torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(before)


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    share_cores(environment)
    worker = subprocess.Popen(
        [sys.executable, "-m", "aurac.runs.workers"],
        stdin=subprocess.PIPE,  # held open: its end tells the worker that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C reaches this process, which tells the workers
    )
    _send(worker, job)
    return worker


def _send(worker: subprocess.Popen[bytes], content: Job | Selection | None) -> None:
    if worker.stdin is not None:
        with contextlib.suppress(OSError):
            pickle.dump(content, worker.stdin)
            worker.stdin.flush()


def _relay(worker: subprocess.Popen[bytes]) -> None:
    """Log what a worker writes: what aurac says under its own name, all else as a library's."""
    with worker.stdout or io.BytesIO() as lines:
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip()
            match = _MESSAGE.fullmatch(line)
            if match:
                level: int = getattr(logging, match[1])
                logging.getLogger(match[2]).log(level, "%s", match[3])
            elif line:
                logging.getLogger(_OF_WORKERS).warning("%s", line)


def _end(
    worker: subprocess.Popen[bytes], context: RunContext, *, early: bool, settled: bool
) -> None:
    """Wait for a worker, not for ever; warn of an early end, with all cells settled or not."""
    try:
        status = worker.wait(_ENDS_IN)
    except subprocess.TimeoutExpired:
        worker.kill()
        status = worker.wait()
    finally:
        if worker.stdin is not None:
            with contextlib.suppress(OSError):
                worker.stdin.close()
    context.log.event("worker ended", pid=worker.pid, status=status, early=early)
    if early and status != 0:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        then = "the others computed its cells" if settled else "the cell it was computing is left"
        logger.warning("a worker ended early %s; %s", how, then)


def serve(job: Job, selections: Iterable[Selection | None]) -> None:
    """Compute the cells of a job, one selection of them after the other."""
    folder, names = job.folder, recorded_names(job.folder)
    session = open_session(job.checkpoints, job.tasks, job.settings, names=names)
    session.fit(folder)
    cells = session.cells()
    if job.shard:
        cells = shard_of(cells, *job.shard)
    with RunLog(folder) as log, Interrupts() as interrupts, Locks(folder) as locks:
        context = RunContext(CellStore(folder), locks, interrupts, log)
        for wanted in selections:
            Runner(session.base, session.options, context).run(selected(cells, wanted))


def _received() -> Iterator[Any]:
    """What the process above sends; a signal asks this one to end when that one is gone."""
    received: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        with contextlib.suppress(EOFError):
            while True:
                received.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - of the process above
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield received.get()


def main() -> int:
    """Read the job and serve it; errors of single cells are in the store already."""
    logging.basicConfig(format=LINE)
    received = _received()
    try:
        serve(next(received), received)
    except AuracError as error:
        logger.error("a worker cannot serve: %s", error.text)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
