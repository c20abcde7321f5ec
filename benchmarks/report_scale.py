"""How long a large report takes, and how large its page is.

    python benchmarks/report_scale.py                 # 20 adapters × 9 ranks × 10 tasks
    python benchmarks/report_scale.py --adapters 10 --tasks 5 --examples 200

The curves are simulated (right and wrong answers drawn at random, without stored answers); what is
timed is the analysis and the writing of the report, in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aurac.analysis import analyse
from aurac.curves.curve import Curve
from aurac.errors import RunFolderError
from aurac.records.manifest import AdapterInfo, TaskInfo
from aurac.show import write_report

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class SimulatedRun:
    """What a report asks of a run, without cells."""

    folder: Path
    curves: list[Curve]
    failures: tuple = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[TaskInfo]:
        """The tasks of the curves."""
        return [
            TaskInfo(name=t, metric="acc,none") for t in dict.fromkeys(c.task for c in self.curves)
        ]

    @property
    def adapters(self) -> list[AdapterInfo]:
        """The adapters of the curves."""
        names = dict.fromkeys(curve.adapter for curve in self.curves)
        return [AdapterInfo(name=name, trained_rank=max(RANKS)) for name in names]

    def questions(self, task: str) -> pd.DataFrame:  # noqa: ARG002
        """No questions."""
        return pd.DataFrame(columns=["example", "question", "target", "choices"])

    def answers(self, *_: object) -> pd.DataFrame:
        """No answers."""
        raise RunFolderError("the run is simulated")


def simulated(folder: Path, adapters: int, tasks: int, examples: int) -> SimulatedRun:
    """A run with a curve for every adapter and task."""
    rng, curves = np.random.default_rng(0), []
    for task in range(tasks):
        hard = rng.normal(size=examples)
        for adapter in range(adapters):
            own = 0.7 * hard + 0.5 * rng.normal(size=examples)
            level = np.linspace(-1.0, rng.uniform(-0.2, 0.8), len(RANKS))
            right = np.stack([own + 0.5 * rng.normal(size=examples) < x for x in level])
            labels = {"adapter": f"adapter-{adapter:03d}", "task": f"task-{task:02d}"}
            ids = tuple(map(str, range(examples)))
            more = {"metric": "acc,none", "base_scores": (hard < -1.5).astype(float)}
            curves.append(
                Curve.from_outcomes(RANKS, right.astype(float), doc_ids=ids, **labels, **more)
            )
    return SimulatedRun(folder, curves)


def main() -> None:
    """Make the run, time analysis and report, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--examples", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = simulated(Path(scratch), args.adapters, args.tasks, args.examples)
        began = time.perf_counter()
        found = analyse(run.curves)
        analysed = time.perf_counter()
        written = write_report(run, found)
        seconds = analysed - began, time.perf_counter() - analysed
        page = next(path for path in written if path.name == "report.html")
        print(f"{args.adapters} adapters × {len(RANKS)} ranks × {args.tasks} tasks")
        print("analysis: {:.1f} s; report: {:.1f} s".format(*seconds))
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
