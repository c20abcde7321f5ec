"""How long a run will take on this machine: a range, from what was measured here.

The best source are cells of the same tasks in the run folder, then earlier runs of the same base on
this machine, of which the cache keeps the last few. Without either a short multiplication of
matrices is timed. Beside the cells a run takes time to start, to load the base and to write its
report.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch

from aurac.files import sha256_json, write_json
from aurac.models import cache_root
from aurac.models.device import machine, versions
from aurac.records.cell import ENGINE_VERSION
from aurac.runs.log import cell_costs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aurac.models.base import LoadedBase
    from aurac.runs.log import Profile

logger = logging.getLogger(__name__)

_KEPT = 8  # runs of one base that are remembered
_COMPUTING = ("forward", "rest of cells", "adapter")  # parts of a profile that grow with the cells
_SPREAD = 1.5  # the least factor from the middle of a range of runs to either end
# FLOP for each parameter and character, over those of the probe: from many texts that share a
# beginning in large passes, to few texts in small passes that share nothing. Measured on two cores.
_PROBE_FACTORS = (1.0, 12.0)
_PROBE_SECONDS, _PROBE_ROWS = 0.25, 256
_LOADING = (1.0, 6.0)  # seconds for 10^9 bytes of weights
_ENDING = (2.0, 8.0)  # seconds for results, figures and report


@dataclass(frozen=True)
class Span:
    """A range of seconds."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    @property
    def middle(self) -> float:
        """The geometric mean."""
        return math.sqrt(self.low * self.high)

    @classmethod
    def around(cls, seconds: Sequence[float]) -> Span:
        """The range of some measurements, not narrower than the spread of runs."""
        middle = Span(min(seconds), max(seconds)).middle
        return cls(min(*seconds, middle / _SPREAD), max(*seconds, middle * _SPREAD))


def estimate(
    left: Mapping[str, float],
    efforts: Mapping[str, float],
    folder: Path | None,
    base: LoadedBase,
    started: float,
) -> tuple[Span | None, str]:
    """Seconds for what is left, and where that comes from or why there is none.

    Args:
        left: Task → requests that are to be answered.
        efforts: Task → effort of a request, see `aurac.tasks.requests.Requests.effort`.
        folder: The run folder, if there is one.
        base: Its outline.
        started: Seconds that a process takes before its run begins.
    """
    costs = cell_costs(folder) if folder else {}
    parameters = sum(p.numel() for p in base.model.parameters())
    if left.keys() <= costs.keys():
        number = sum(len(costs[task]) for task in left)
        span = _beside_cells(base, parameters)
        for task, requests in left.items():
            span += Span.around([seconds / count * requests for seconds, count in costs[task]])
        return span, f"from {number} cells of the same tasks in {folder}"
    effort = sum(efforts[task] * requests for task, requests in left.items())
    rows = _rows(_path(base))
    if rows:
        runs = "an earlier run" if len(rows) == 1 else f"{len(rows)} earlier runs"
        span = Span.around([row["seconds"] / row["effort"] * effort for row in rows])
        span += Span.around([row["beside"] + started for row in rows])
        return span, f"from {runs} of this base on this machine"
    if base.device != "cpu":
        return None, f"no estimate: no run on {base.device} is known; one finished run gives one"
    speed = _flops_per_second(getattr(base.model.config, "hidden_size", 1024), base.dtype)
    low, high = (factor * parameters * effort / speed for factor in _PROBE_FACTORS)
    return Span(low, high) + _beside_cells(base, parameters), (
        f"from a short measurement of this machine ({speed / 1e9:.0f} GFLOP/s in {base.dtype}); "
        "narrower after a first run"
    )


def remember(base: LoadedBase, profile: Profile) -> None:
    """Keep the speed of a run that computed cells in this process."""
    computing = sum(profile.seconds[part] for part in _COMPUTING)
    if not profile.effort or computing <= 0:
        return
    beside = profile.to_dict()["seconds"] - computing
    row = {"effort": profile.effort, "seconds": round(computing, 3), "beside": round(beside, 3)}
    path = _path(base)
    try:
        write_json(path, [*_rows(path), row][-_KEPT:])
    except OSError as error:
        logger.info("the speed of this run cannot be remembered (%s)", error)


def process_age() -> float:
    """Seconds since this process began."""
    began: float = psutil.Process(os.getpid()).create_time()
    return max(0.0, time.time() - began)


def _beside_cells(base: LoadedBase, parameters: int) -> Span:
    """Seconds to start as this process did, to load the base and to write the report."""
    started = process_age()
    low, high = (rate * weight_bytes(parameters, base.dtype) / 1e9 for rate in _LOADING)
    return Span(started + low + _ENDING[0], 2 * started + high + _ENDING[1])


def weight_bytes(parameters: int, dtype: str) -> int:
    """Of so many parameters."""
    return parameters * (4 if dtype == "float32" else 2)


def _flops_per_second(width: int, dtype: str) -> float:
    kind = getattr(torch, dtype)
    rows, weight = torch.ones(_PROBE_ROWS, width, dtype=kind), torch.ones(width, width, dtype=kind)
    torch.mm(rows, weight)  # the first call sets up
    count, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _PROBE_SECONDS or not count:
        torch.mm(rows, weight)
        count += 1
    return 2.0 * _PROBE_ROWS * width * width * count / seconds


def _path(base: LoadedBase) -> Path:
    measured = [base.sha256, base.dtype, base.device, machine(), ENGINE_VERSION, versions()]
    return cache_root() / "speed" / f"{sha256_json(measured)[:32]}.json"


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row for row in rows if row["effort"] > 0 and row["seconds"] > 0 <= row["beside"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
