"""What the run folder costs when it holds many cells, and whether memory stays flat.

    python benchmarks/run_store.py --cells 100000 --out FILE.json
    python benchmarks/run_store.py --memory CKPT --tasks aurac_word_problems_mc --out FILE.json

The first fills a folder with cells (small ones: only their number matters to a listing), then puts
full-size cells into it through the runner, with locks and log, on tasks that cost nothing: what
is left is the store's own cost per cell. It also times a status from the command line (and its
memory), what a dry run looks up, the plan, and reading a cell back. The second evaluates 500 cells
with the real engine (one adapter's cells, deleted and computed again) and prints the resident
memory, threads and open files along the way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

DOCUMENTS = 100
STATUS = r"""
import re, sys
import aurac.cli
sys.argv = ["aurac", "runs", "status", sys.argv[1], "--json"]
try:
    aurac.cli.main()
finally:
    sys.stderr.write(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
"""


def timed(work: Any, times: int = 3, clock: Any = time.perf_counter) -> float:
    """Median seconds of a call."""
    results = []
    for _ in range(times):
        began = clock()
        work()
        results.append(clock() - began)
    return statistics.median(results)


def store_costs(cells: int, puts: int = 200) -> dict[str, Any]:
    """Costs in a folder of `cells` cells."""
    from runs_doubles import Task, planned, runner

    from aurac.records.store import CellStore, read_cell
    from aurac.runs.folder import RequestedTask, RequestSettings, RunRequest, open_run_folder
    from aurac.runs.lock import Locks
    from aurac.runs.log import RunLog
    from aurac.runs.status import CellStates, PlanRow, read_status, write_plan

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        tasks = {"t": RequestedTask(first_prompt="x", documents=100)}
        request = RunRequest(settings=RequestSettings(), adapters={}, curves=[], tasks=tasks)
        open_run_folder(folder, ["t"], request)
        (folder / "cells").mkdir()
        rows = [PlanRow(f"{n:064x}", f"c{n % 50}", n, f"t{n % 7}", 400, 100) for n in range(cells)]
        for row in rows:
            line = f'{{"documents":{row.documents}}}\n'  # what a status reads of a cell
            (folder / "cells" / f"{row.key}.jsonl").write_text(line)
        fresh = planned(*(Task(f"task{n}", n=DOCUMENTS, passes=0) for n in range(puts)))
        plan = [*rows, *(PlanRow(c.identity.key, None, 0, "t", 400, 100) for c in fresh)]
        began = time.perf_counter()
        write_plan(folder, plan)
        plan_seconds = time.perf_counter() - began
        store = CellStore(folder)
        began, processor = time.perf_counter(), -time.process_time()
        with RunLog(folder) as log, Locks(folder) as locks:
            runner(folder, locks=locks, log=log).run(fresh)
        processor += time.process_time()
        each = (time.perf_counter() - began) / puts
        paths = [store.path(cell.identity.key) for cell in fresh]
        command = [sys.executable, "-c", STATUS, str(folder)]
        from_the_command_line = timed(
            lambda: subprocess.run(command, check=True, capture_output=True)
        )
        return {
            "cells": cells + puts,
            "milliseconds_per_cell": round(1000 * each, 2),
            "bytes_per_cell": round(statistics.mean(p.stat().st_size for p in paths)),
            "milliseconds_to_read_a_cell": round(
                1000 * timed(lambda: [read_cell(p) for p in paths]) / puts, 2
            ),
            "seconds_to_write_the_plan": round(plan_seconds, 2),
            "seconds_to_list": round(timed(store.keys), 3),
            "seconds_of_status": round(timed(lambda: read_status(folder)), 3),
            "processor_seconds_of_status": round(
                timed(lambda: read_status(folder), clock=time.process_time), 3
            ),
            "processor_milliseconds_per_cell": round(1000 * processor / puts, 2),
            "seconds_of_the_look_up_of_a_dry_run": round(
                timed(lambda: CellStates.of(plan, store)), 3
            ),
            "seconds_of_status_from_the_command_line": round(from_the_command_line, 3),
            "mebibytes_of_that_process": round(
                int(subprocess.run(command, check=True, capture_output=True).stderr) / 1024
            ),
        }


def usage() -> dict[str, int]:
    """Resident memory in KiB, threads, open files of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }


def memory(checkpoint: str, task: str, cells: int = 500) -> dict[str, Any]:
    """Memory while the cells of one adapter are computed again and again."""
    from aurac.engine import EngineOptions
    from aurac.records.store import CellStore
    from aurac.runs.lock import Locks
    from aurac.runs.log import RunLog
    from aurac.runs.runner import RunContext, Runner
    from aurac.runs.session import open_session
    from aurac.runs.settings import Settings

    settings = Settings.of(ranks="all", limit=20, dtype="float32", device="cpu")
    session = open_session([checkpoint], [task], settings)
    planned = session.cells()
    seen: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        store = CellStore(folder)
        with RunLog(folder) as log, Locks(folder) as locks:
            runner = Runner(session.base, EngineOptions(), RunContext(store, locks, log=log))
            done = 0
            while done < cells:
                runner.run(planned)
                done += len(planned)
                for cell in planned:
                    store.path(cell.identity.key).unlink()
                seen.append({"cells": done, **usage()})
    half = [point["kib"] for point in seen if point["cells"] >= cells / 5]
    return {"growth": round(max(half) / half[0] - 1, 4), "points": seen[:: max(1, len(seen) // 8)]}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--memory", metavar="CKPT")
    parser.add_argument("--tasks", default="aurac_word_problems_mc")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = (
        memory(options.memory, options.tasks) if options.memory else store_costs(options.cells)
    )
    text = json.dumps(results, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
