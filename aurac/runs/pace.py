"""The pace of a finished run: seconds for a document at one rank, as its cells record them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from aurac.errors import RunFolderError, UsageError
from aurac.models.device import machine
from aurac.records.reader import StoredCells
from aurac.records.schema import RESULTS_FILE, Results


@dataclass(frozen=True)
class Pace:
    """What a document costs inside the evaluation; starting and the report are beside it.

    `seconds` of wall time are for a document at one rank, the mean over curves and `ranks` of one;
    `source` names the run, its base and its device.
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
    place = [f"base {made.base.name}"] * bool(made.base.name) + [f"on {made.device or 'a device'}"]
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
