"""How long evaluation takes: an estimate for what is left, and the pace of a finished run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from aurac.errors import RunFolderError, UsageError
from aurac.models.base import LoadedBase
from aurac.records.results_file import RESULTS_FILE, Results
from aurac.runs.log import cell_costs

if TYPE_CHECKING:
    from aurac.tasks.task import BuiltTask


_SPREAD = 1.5  # the least factor from the middle of a range of runs to either end
# FLOP for each parameter and character, over those of the probe: a cell of 64 documents took 0.9
# and one of 16 took 4.7 to 5.5 on two shared cores, since small passes use a core badly.
_PROBE_FACTORS, _FULL, _MOST_PADDING = (0.5, 3.0), 64, 4.0
_PROBES, _PROBE_SECONDS, _PROBE_ROWS = 9, 0.05, 256
_LOADING = (1.0, 6.0)  # seconds for 10^9 bytes of weights
_ENDING = (2.0, 8.0)  # seconds for results, figures and report


def estimate(
    left: Mapping[str, float], built: Sequence[BuiltTask], folder: Path | None, base: LoadedBase
) -> tuple[tuple[float, float] | None, str]:
    """The least and the most seconds for what is left, and what tells or why nothing does.

    Cells of the same tasks in the run folder tell; without them a short multiplication of matrices
    is timed. Beside the cells a run takes time to start, to load the base and to write its report.
    `left` is task → requests that are to be answered; `base` an outline.
    """
    costs = cell_costs(folder) if folder else {}
    age, gigabytes = process_age(), weight_bytes(base) / 1e9
    low = age + _LOADING[0] * gigabytes + _ENDING[0]
    high = 3 * age + _LOADING[1] * gigabytes + _ENDING[1]
    if left.keys() <= costs.keys():
        for task, requests in left.items():
            seconds = [spent / count * requests for spent, count in costs[task]]
            middle = math.sqrt(min(seconds) * max(seconds))
            low += min(*seconds, middle / _SPREAD)
            high += max(*seconds, middle * _SPREAD)
        number = sum(len(costs[task]) for task in left)
        return (low, high), f"from {number} cells of the same tasks in {folder}"
    if base.device != "cpu":
        return None, f"no estimate on {base.device} before one cell of each task is finished"
    parameters = sum(p.numel() for p in base.model.parameters())
    effort, padded = 0.0, 0.0
    for each in (each for each in built if each.name in left):
        effort += (read := left[each.name] * each.effort / each.n_requests)
        padded += read * min(max(1.0, _FULL / each.n_docs), _MOST_PADDING)
    speed = _flops_per_second(getattr(base.model.config, "hidden_size", 1024), base.dtype)
    least, most = (factor * parameters / speed for factor in _PROBE_FACTORS)
    return (low + least * effort, high + most * padded), (
        f"from a short measurement of this machine ({speed / 1e9:.0f} GFLOP/s in {base.dtype}); "
        "narrower after a first run"
    )


def process_age() -> float:
    """Seconds since this process began."""
    import psutil

    began: float = psutil.Process(os.getpid()).create_time()
    return max(0.0, time.time() - began)


def weight_bytes(base: LoadedBase) -> int:
    """Of its parameters in its dtype."""
    size = 4 if base.dtype == "float32" else 2
    return size * int(sum(p.numel() for p in base.model.parameters()))


def _flops_per_second(width: int, dtype: str) -> float:
    """Of products of matrices: the median of short measurements, some of which others slow."""
    import torch

    kind = getattr(torch, dtype)
    rows, weight = torch.ones(_PROBE_ROWS, width, dtype=kind), torch.ones(width, width, dtype=kind)
    torch.mm(rows, weight)  # the first call sets up
    speeds = []
    for _ in range(_PROBES):
        count, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < _PROBE_SECONDS or not count:
            torch.mm(rows, weight)
            count += 1
        speeds.append(2.0 * _PROBE_ROWS * width * width * count / seconds)
    return median(speeds)


@dataclass(frozen=True)
class Pace:
    """Wall `seconds` of the evaluation for a document at one rank: the mean over curves and ranks.

    `ranks` are those of one curve; `source` names the run, its base and its device.
    """

    seconds: float
    ranks: int
    source: str

    def of(self, documents: float, question: str, seeds: int = 1) -> float:
        """Seconds for so many documents at all ranks, and of the base at rank 0.

        A question of non-inferiority (`aurac.stats.power`) needs two ranks and no base.
        """
        if question == "non-inferiority":
            return self.seconds * documents * 2 * seeds
        curves = seeds * (2 if question == "difference" else 1)
        return self.seconds * documents * (curves * self.ranks + 1)


def pace_of(folder: Path, task: str | None = None) -> Pace | None:
    """The pace of a run on a task (its first by default); None where no cell tells."""
    from aurac.models.device import machine
    from aurac.records.reader import StoredCells

    results = Results.read(folder)
    stored, seconds, longest = StoredCells(folder, results), list[float](), 0
    rows = [row for row in results.curves if row.default]
    task = task or next((row.task for row in rows), None)
    for row in rows:
        known = [rank for rank in row.ranks if row.files(rank)] if row.task == task else []
        for rank in known:
            with contextlib.suppress(RunFolderError):
                cells = stored.read(row, rank)
                count = sum(len(cell.documents) for cell in cells)
                seconds.append(sum(cell.seconds for cell in cells) / max(count, 1))
        longest = max(longest, len(known))
    if not sum(seconds):
        return None
    made = results.provenance
    place = [f"base {made.base.name}"] if made.base.name else []
    place.append(f"on {made.device or 'a device'}")
    if made.machine and machine().items() - made.machine.items():
        place.append("of another machine")
    return Pace(sum(seconds) / len(seconds), longest, f"{folder} ({' '.join(place)})")


def find_pace(named: str | Path | None, pilot: str | Path | None, task: str | None) -> Pace | None:
    """The pace of the run that was named, which must have one, or of a pilot that is a run folder.

    Raises:
        RunFolderError: The run cannot be read.
        UsageError: The named run holds no cells of the task.
    """
    place = named or (pilot if pilot and (Path(pilot) / RESULTS_FILE).is_file() else None)
    pace = None if place is None else pace_of(Path(place), task)
    if named and pace is None:
        raise UsageError(
            f"--pace {named} holds no timed cells{f' of {task}' if task else ''}",
            expected="a finished run folder of aurac compare",
        )
    return pace
