"""What a run asks of the folder that its workers share: walks over its cells, and the store.

Leaps and pauses are aurac's own (`runs.walk`), so is the form of a cell's file; what an operation
costs is counted from `aurac.runs.store` and `aurac.runs.lock`. Used by `cluster_simulation.py`.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.files import json_by_key
from aurac.hashing import sha256_json
from aurac.runs.walk import ENTRIES_FOR_A_LOOK, TRIED_AT_ONCE, after, leaps, pause_after

if TYPE_CHECKING:
    from collections.abc import Sequence

# --- walks over a shared folder -------------------------------------------------------------------


@dataclass
class Looks:
    """What workers that share a folder ask of it beside what their own cells need.

    Attributes:
        cells: Looks for a cell's file.
        tries: Leases that were asked for and held by others.
        rounds: Listings of `cells/` and `leases/`.
        entries: What those listings held in all.
    """

    cells: int = 0
    tries: int = 0
    rounds: int = 0
    entries: int = 0


class Walks:
    """Workers that walk over the same cells as `aurac.runs.runner` does, without time for looking.

    Args:
        seconds: Duration of each cell, in the plan's order.
        workers: M.
        seed: Of the leaps.
    """

    def __init__(self, seconds: Sequence[float], workers: int, seed: int) -> None:
        self.seconds, self.looks, self.makespan = seconds, Looks(), 0.0
        self._done = np.zeros(len(seconds), dtype=bool)
        self._held = np.zeros(len(seconds), dtype=bool)
        self._draws = [random.Random(f"{seed} {worker}") for worker in range(workers)]
        self._walks: list[Any] = [None] * workers
        self._pauses: list[float | None] = [None] * workers
        self._listed = [0] * workers

    def run(self) -> Looks:
        """Until all cells are done; counts what was looked for."""
        events = [(0.0, worker, -1) for worker in range(len(self._walks))]
        heapq.heapify(events)
        while events:
            now, worker, cell = heapq.heappop(events)
            if cell >= 0:
                self._done[cell], self._held[cell] = True, False
                self.makespan = max(self.makespan, now)
            mine = self._next(worker, came_from_cell=cell >= 0)
            if mine is not None:
                self._held[mine], self._pauses[worker] = True, None
                heapq.heappush(events, (now + self.seconds[mine], worker, mine))
            elif not self._done.all():
                left = int((~self._done).sum())
                self.looks.tries += min(left, TRIED_AT_ONCE)
                pause = self._pauses[worker] = pause_after(self._pauses[worker], left)
                heapq.heappush(events, (now + pause, worker, -1))
        return self.looks

    def _next(self, worker: int, *, came_from_cell: bool) -> int | None:
        """The cell that a worker takes now; None where others hold all that is left."""
        if came_from_cell:
            cells, walk = self._walks[worker]
            found = self._along(cells, walk, after(walk, free=True))
            if found is not None:
                return found
        while True:
            free = np.flatnonzero(~self._done & ~self._held).astype(np.int32)
            self.looks.rounds += 1
            done, held = int(self._done.sum()), int(self._held.sum())
            left = len(self._done) - done
            if self._listed[worker] > ENTRIES_FOR_A_LOOK * left:
                self.looks.cells += left
                self.looks.entries += held
            else:
                self.looks.entries += done + held
                self._listed[worker] = done
            if not len(free):
                return None
            walk = leaps(len(free), self._draws[worker])
            self._walks[worker] = free, walk
            found = self._along(free, walk, next(walk))
            if found is not None:
                return found

    def _along(self, cells: Any, walk: Any, place: int | None) -> int | None:
        while place is not None:
            cell = int(cells[place])
            self.looks.cells += 1
            if not self._done[cell]:
                if not self._held[cell]:
                    return cell
                self.looks.tries += 1
            place = after(walk, free=False)
        return None


# --- the store ------------------------------------------------------------------------------------


def cell_bytes(documents: int, characters: int) -> int:
    """Size of a cell's file with answers of so many characters, in aurac's own format."""
    cell: dict[str, Any] = {
        "schema": 1,
        "key": "0" * 64,
        "identity": {f"field{i}": "0" * 20 for i in range(15)},
        "doc_ids": [str(i) for i in range(documents)],
        "doc_hashes": ["0" * 64] * documents,
        "strata": None,
        "metrics": {
            "exact_match,strict-match": [1.0] * documents,
            "acc_norm,none": [0.0] * documents,
        },
        "responses": ["x" * characters] * documents,
        "seconds": 1.0,
    }
    cell["checksum"] = sha256_json(cell)
    return len(json_by_key(cell).encode("utf-8"))


@dataclass(frozen=True)
class StoreLoad:
    """Operations a second on the file system that holds the run folder, on average.

    Attributes:
        cells: For finished cells: lease made and removed, temporary file, rename, flushes, looks.
        listings: Entries of folders that are listed.
        beats: The workers' signs of life, each sixth of a lease's 60 seconds.
        looks: Looks for cells that others might have done, and leases asked for that others held.
    """

    cells: float
    listings: float
    beats: float
    looks: float


# Per finished cell: create, write and unlink the lease; create, fsync, rename the cell; fsync the
# folder; look for the cell, for a failure record (unlink of nothing) and for checkpoints.
PER_CELL = 10
LISTINGS_PER_CELL = 3  # of `leases/`: before and after it is taken, and before the cell is written


def store_load(
    cells: int, workers: int, makespan: float, mode: str, looks: Looks | None = None
) -> StoreLoad:
    """What a way of sharing asks of the store.

    Args:
        cells: N.
        workers: M.
        makespan: Seconds.
        mode: `shared` (every worker walks the whole plan through leases), `shards` (each walks its
            own share) or `ray` (one process writes all).
        looks: What the walks of `shared` ask for.
    """
    held = workers  # lease files at any time
    beats = (1 if mode == "ray" else workers) / 10.0
    looks = looks or Looks()
    done = cells / makespan
    listed = (cells * LISTINGS_PER_CELL + looks.tries) * held + looks.entries
    return StoreLoad(
        cells=done * PER_CELL,
        listings=listed / makespan,
        beats=beats,
        looks=(looks.cells + looks.tries) / makespan,
    )
