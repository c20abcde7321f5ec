r"""Kills a real run with SIGKILL at random moments, goes on, and counts what that cost.

    python benchmarks/kills.py adapters_zoo/word_problems/{lora,dylora} --limit 20 \
        --tasks aurac_word_problems --kills 50 --out FILE.json

One run is left in peace first. Then runs of the same request are killed and the same request is
given again, until the kills are spent and the last run has ended by itself. Every other kill comes
at a moment drawn from the time that the undisturbed run took from its start to its end; the others
at one drawn from the time that its cells took, counted from when a block begins.

What is checked: the outcomes of every run are those of the undisturbed one, no kill costs more than
one block of examples, and no lock is left behind (temporary files go after an hour).
`--block N` makes blocks of N examples. Each attempt is a fork of a process that has imported the
libraries, but read no model and no task.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIBRARIES = ("transformers", "peft", "lm_eval.tasks", "aurac.runs.compare", "aurac.engine.lm")


def attempt(words: dict[str, Any], folder: Path, log: Path) -> int:
    """Start the run in a child of its own, which notes each block that it begins."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from aurac.runs import compare
        from aurac.runs.settings import Settings
        from aurac.tasks.evaltask import EvalTask

        ask = EvalTask.ask

        def noted(self: Any, lm: Any, places: Any) -> Any:
            with folder.with_suffix(".blocks").open("a") as file:
                file.write(f"{time.monotonic()}\n")
            return ask(self, lm, places)

        EvalTask.ask = noted  # type: ignore[method-assign]
        compare.write_report = lambda _result: None  # type: ignore[assignment]
        status = 3 if compare.run(Settings.of(out=folder, **words)).failures else 0
    finally:
        os._exit(status)


def wait(pid: int, seconds: float | None = None) -> int | None:
    """Exit status, or None if it has not ended in that time."""
    if seconds is None:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def curves(folder: Path) -> str:
    """The outcome of every example of a run, as text."""
    from aurac.records.run import read_run

    run = read_run(folder)
    rows = [[c.adapter, c.ranks, c.outcomes.tolist(), list(c.base_scores)] for c in run.curves]
    return json.dumps(rows)


def begun(folder: Path) -> list[float]:
    """When blocks were begun, by all processes."""
    path = folder.with_suffix(".blocks")
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_a_block(pid: int, folder: Path) -> int | None:
    """Wait until one more block begins; the exit status if the run ends before that."""
    before = len(begun(folder))
    while len(begun(folder)) == before:
        status = wait(pid, 0.005)
        if status is not None:
            return status
    return None


def left_behind(folder: Path) -> list[str]:
    """Files that a finished run should not have."""
    return sorted(str(path.relative_to(folder)) for path in folder.glob("locks/*"))


def campaign(words: dict[str, Any], kills: int, seed: int, root: Path) -> dict[str, Any]:
    """Spend the kills; see the module's text."""
    draw = random.Random(seed)
    log = root / "output.txt"
    started = time.monotonic()
    if wait(attempt(words, root / "undisturbed", log)) != 0:
        raise SystemExit(log.read_text())
    whole = time.monotonic() - started
    expected = curves(root / "undisturbed")
    cells = len(list((root / "undisturbed" / "cells").iterdir()))
    clocks = begun(root / "undisturbed")
    blocks = len(clocks)
    computing = max(clocks) - min(clocks)
    spent, runs, redone, moments = 0, [], 0, []
    while spent < kills:
        folder = root / f"run{len(runs)}"
        kills_here = 0
        while True:
            pid, status = attempt(words, folder, log), None
            within = spent % 2 == 1 and spent < kills
            if within:
                status = wait_for_a_block(pid, folder)
            moment = draw.uniform(0, computing if within else whole)
            if status is None:
                status = wait(pid, moment if spent < kills else None)
            if status is not None:
                break
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            spent, kills_here = spent + 1, kills_here + 1
            moments.append(f"{moment:.3f} s {'of the cells' * within}".strip())
        again = len(begun(folder)) - blocks
        redone += again
        runs.append(
            {
                "kills": kills_here,
                "status": status,
                "equal": status == 0 and curves(folder) == expected,
                "redone": again,
                "left_behind": left_behind(folder),
            }
        )
    return {
        "cells": cells,
        "blocks": blocks,
        "seconds_undisturbed": round(whole, 2),
        "seconds_of_cells": round(computing, 2),
        "kills": spent,
        "runs": runs,
        "blocks_redone": redone,
        "all_equal": all(run["equal"] for run in runs),
        "at_most_one_block_redone_per_kill": all(run["redone"] <= run["kills"] for run in runs),
        "moments": moments,
    }


def main() -> None:
    """Parse, run, print, and fail if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--ranks", default="pow2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, help="examples in a block")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = ("checkpoints", "limit", "ranks", "dtype", "device")
    words = {name: getattr(options, name) for name in names} | {"tasks": options.tasks.split(",")}
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    from aurac.runs import plan

    if options.block:
        plan.BLOCK_EXAMPLES = {options.device: options.block}
    torch.set_num_threads(1)  # nothing else runs in this process, so that a fork is whole
    with tempfile.TemporaryDirectory() as root:
        results = campaign(words, options.kills, options.seed, Path(root))
    text = json.dumps(results, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    clean = all(not run["left_behind"] for run in results["runs"])
    sys.exit(
        0 if results["all_equal"] and results["at_most_one_block_redone_per_kill"] and clean else 1
    )


if __name__ == "__main__":
    main()
