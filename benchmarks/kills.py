"""Two processes in one run folder, and kills with SIGKILL, at random moments.

    python -m benchmarks.kills --out FILE.jsonl [--pairs 100] [--kills 100]

The model is that of `tests/program`, which answers from a table, so that a start costs little; each
process is a fork of one that has imported the libraries. One run is left in peace first. Then come
pairs of processes that are given the same command, the second one at once or at a moment drawn from
the time that the first takes; and runs of which each process is killed at such a moment, until one
ends by itself.

What is checked: every process that was not killed ends with 0, what the run then says is what the
undisturbed one says, and no kill costs more than one block of one cell. Each pair and each run is a
line of the file; the same command goes on behind those that are there.
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
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]
ADAPTERS, TASKS = ("lora", "family", "ada0", "ada1", "ada2"), ("colours", "both", "sums")
LIBRARIES = ("lm_eval.tasks", "lm_eval.api.task", "datasets", "peft", "matplotlib.figure", "pandas")
FILES = ("analysis.json", "scores.csv", "points.csv", "pairs.csv", "rank_pairs.csv")


class Campaign:
    """The command that all are given, and what it says undisturbed."""

    def __init__(self, root: Path, seed: int) -> None:
        from program.commands import Command

        self.root, self.draw = root, random.Random(seed)
        self.command = Command(ADAPTERS, TASKS, {}, {})
        began = time.monotonic()
        assert self.wait(self.start("undisturbed")) == 0, self.errors("undisturbed")
        self.seconds = time.monotonic() - began
        self.expected = self.said("undisturbed")

    def start(self, name: str) -> int:
        """Begin the command in a fork; its process."""
        from program.machine import quick

        from aurac.cli import main

        if pid := os.fork():
            return pid
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            os.dup2(os.open(self.root / f"{name}.log", flags), 2)
            os.environ["TABLE_LOG"] = str(self.root / f"{name}.asked")
            sys.argv = ["aurac", *self.command.words(self.root, self.root / name, 1)]
            with quick(self.root, flush=True):
                main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0
        finally:
            os._exit(status)

    def errors(self, name: str) -> list[str]:
        """What the processes called an error."""
        lines = (self.root / f"{name}.log").read_text().splitlines()
        return [line for line in lines if "error" in line.lower()][-5:]

    def wait(self, pid: int, seconds: float | None = None) -> int | None:
        """Exit status; None if it has not ended in that time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            done, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None

    def said(self, name: str) -> dict[str, str]:
        """What a run says in the end."""
        paths = [self.root / name / file for file in FILES]
        return {path.name: path.read_text() if path.exists() else "" for path in paths}

    def again(self, name: str) -> int:
        """The cells of which an example was asked for twice."""
        lines = (self.root / f"{name}.asked").read_text().splitlines()
        asked = Counter(tuple(line.split()[1:]) for line in lines)
        return len({example[:2] for example, count in asked.items() if count > 1})

    def pair(self, name: str, number: int) -> dict[str, Any]:
        """Two processes in one folder; every other pair begins together."""
        delay = self.draw.uniform(0, self.seconds) if number % 2 else 0.0
        first = self.start(name)
        time.sleep(delay)
        statuses = [self.wait(pid) for pid in (self.start(name), first)]
        return {"delay": round(delay, 3), "statuses": statuses, "fine": statuses == [0, 0]}

    def killed(self, name: str, most: int) -> dict[str, Any]:
        """A run that goes on after each of at most so many kills."""
        moments: list[float] = []
        while True:
            pid = self.start(name)
            moment = self.draw.uniform(0, self.seconds) if len(moments) < most else None
            if (status := self.wait(pid, moment)) is not None:
                break
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)
            moments.append(round(moment or 0.0, 3))
        fine = status == 0 and self.again(name) <= len(moments)
        return {"kills": len(moments), "moments": moments, "status": status, "fine": fine}


def kept(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Run what is missing, say what was found, and fail if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    from support.table_world import write

    for name in LIBRARIES:
        importlib.import_module(name)
    lines = kept(options.out)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(write(Path(folder)), seed=len(lines))
        while (pairs := sum("delay" in line for line in lines)) < options.pairs or (
            kills := sum(line.get("kills", 0) for line in lines)
        ) < options.kills:
            name = f"run{len(lines)}"
            if pairs < options.pairs:
                line = campaign.pair(name, pairs)
            else:
                line = campaign.killed(name, options.kills - kills)
            line["again"], line["equal"] = (
                campaign.again(name),
                campaign.said(name) == campaign.expected,
            )
            line |= {} if line["fine"] and line["equal"] else {"errors": campaign.errors(name)}
            lines.append(line)
            with options.out.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
    wrong = [line for line in lines if not (line["fine"] and line["equal"])]
    counts = {"pairs": pairs, "kills": kills, "seconds": round(campaign.seconds, 2)}
    print(json.dumps({**counts, "again": sum(line["again"] for line in lines), "wrong": wrong}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
