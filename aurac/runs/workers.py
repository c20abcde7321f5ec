"""Cells on this machine: this process, and as many more as are asked for, one for each device.

The others are processes of their own that share the run folder through its locks, exactly as a
second terminal or another node would. One that dies loses the cell it was in; its lock tells.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aurac.models.device import share_cores
from aurac.runs.runner import RunContext, Runner
from aurac.runs.settings import to_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.runs.plan import PlannedCell
    from aurac.runs.session import Session
    from aurac.runs.settings import Execution
    from aurac.runs.store import CellStore

logger = logging.getLogger(__name__)

_SAID = re.compile(r"(WARNING|ERROR|CRITICAL) (aurac[\w.]*): (.*)")  # see `worker.LINE`
_OF_WORKERS = "worker"  # a logger that is not aurac's: the command line sends it to the log file
_ENDS_IN = 30.0  # seconds that a worker may take to end once it is told to


class LocalExecutor:
    """Runs cells here and in `execution.workers - 1` further processes.

    Args:
        execution: Workers, shard and lease time are read.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def run(
        self, session: Session, store: CellStore, cells: Sequence[PlannedCell], context: RunContext
    ) -> None:
        """See `Executor`."""
        workers = self._execution.workers
        if session.settings.model.device_map is not None and workers is None:
            workers = 1  # one process has all devices
        devices = worker_devices(session.outline.device, workers)
        devices = devices[: max(1, len(cells))]
        with contextlib.ExitStack() as stack:
            if len(devices) > 1:
                threads = stack.enter_context(_divided_threads(len(devices)))
                stack.enter_context(self._others(session, store, devices[1:], threads, context))
            if session.settings.model.device_map is None:
                session.place_on(devices[0])
            Runner(session.base, store, session.options, context).run(cells)

    @contextlib.contextmanager
    def _others(
        self,
        session: Session,
        store: CellStore,
        devices: Sequence[str],
        threads: int,
        context: RunContext,
    ) -> Iterator[None]:
        """Further workers; at the end they are told to end, and awaited."""
        started: list[subprocess.Popen[bytes]] = []
        settled = False
        relays: list[threading.Thread] = []
        try:
            for device in devices:
                worker = _start(self._job(session, store, device), threads)
                started.append(worker)
                relays.append(threading.Thread(target=_relay, args=[worker], daemon=True))
                relays[-1].start()
                context.log.event("worker", pid=worker.pid, device=device)
            yield
            settled = True
        finally:
            # All cells are settled, or this process must end: either way the workers are done.
            early = [worker for worker in started if worker.poll() is not None]
            for worker in started:
                worker.terminate()
            for worker in started:
                _end(worker, context, early=worker in early, settled=settled)
            for relay in relays:
                relay.join(_ENDS_IN)

    def _job(self, session: Session, store: CellStore, device: str) -> dict[str, Any]:
        plain = to_plain(session.settings)
        return {
            "folder": str(store.run_folder.resolve()),
            "checkpoints": list(session.checkpoints),
            "tasks": list(session.tasks),
            "settings": {**plain, "model": {**plain["model"], "device": device}},
            "execution": asdict(self._execution),
        }


def worker_devices(device: str, workers: int | None) -> list[str]:
    """The device of each worker: CUDA devices in turn, anything else shared by all.

    Without a number there is one worker for each CUDA device, or one in all.
    """
    import torch

    if device != "cuda":
        return [device] * (workers or 1)
    there = max(1, torch.cuda.device_count())
    return [f"cuda:{number % there}" for number in range(workers or there)]


@contextlib.contextmanager
def _divided_threads(workers: int) -> Iterator[int]:
    """This process's threads divided among the workers."""
    import torch

    before = torch.get_num_threads()
    share = max(1, before // workers)
    torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(before)


def _start(job: dict[str, Any], threads: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    share_cores(environment)
    worker = subprocess.Popen(
        [sys.executable, "-m", "aurac.runs.worker"],
        stdin=subprocess.PIPE,  # held open: its end tells the worker that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C reaches this process, which tells the workers
    )
    if worker.stdin is not None:
        with contextlib.suppress(OSError):
            worker.stdin.write(json.dumps(job).encode() + b"\n")
            worker.stdin.flush()
    return worker


def _relay(worker: subprocess.Popen[bytes]) -> None:
    """Log what a worker writes: what aurac says under its own name, all else as a library's."""
    if worker.stdout is None:
        return
    with worker.stdout as lines:
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip()
            match = _SAID.fullmatch(line)
            if match:
                level: int = getattr(logging, match[1])
                logging.getLogger(match[2]).log(level, "%s", match[3])
            elif line:
                logging.getLogger(_OF_WORKERS).warning("%s", line)


def _end(
    worker: subprocess.Popen[bytes], context: RunContext, *, early: bool, settled: bool
) -> None:
    """Wait for a worker, not for ever; warn of one that ended before it was told to (`early`).

    `settled` says whether every cell is done or failed by now.
    """
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
