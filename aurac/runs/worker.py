"""A further process on a run folder: reads its job from standard input, ends when that closes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from aurac.errors import AuracError
from aurac.runs.interrupts import EXIT_INTERRUPTED, Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.plan import shard_of
from aurac.runs.runner import RunContext, Runner
from aurac.runs.session import open_session
from aurac.runs.settings import from_plain
from aurac.runs.store import CellStore

logger = logging.getLogger("aurac.runs.worker")

LINE = "%(levelname)s %(name)s: %(message)s"  # the process that started this one reads it


def serve(job: dict[str, Any]) -> None:
    """Compute the cells of a job until all are settled."""
    folder, execution = Path(job["folder"]), job["execution"]
    session = open_session(job["checkpoints"], job["tasks"], from_plain(job["settings"]))
    session.fit(folder)
    cells = session.cells()
    if execution["shard"]:
        number, of = execution["shard"]
        cells = shard_of(cells, number, of)
    with (
        RunLog(folder) as log,
        Interrupts() as interrupts,
        Locks(folder, execution["lease_seconds"]) as locks,
    ):
        context = RunContext(locks, interrupts, log)
        Runner(session.base, CellStore(folder), session.options, context).run(cells)


def _end_with_parent() -> None:
    """Ask this process to end when the one that started it is gone."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Read the job and serve it; errors of single cells are in the store already."""
    logging.basicConfig(format=LINE)
    job = json.loads(_first_line())
    _end_with_parent()
    try:
        serve(job)
    except AuracError as error:
        logger.error("a worker cannot serve: %s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            break
        line += part
    return line


if __name__ == "__main__":
    sys.exit(main())
