"""What is done, failed and left: the plan minus what the store has; no cell is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aurac.files import write_atomic
from aurac.records.cell import changed_parts, same_scoring
from aurac.records.store import CellStore

PLAN_FILE = "plan.jsonl"


class PlanRow(msgspec.Struct, frozen=True, array_like=True):
    """A planned cell: its identity's key, its curve's label (None: the base), size and scoring."""

    key: str
    curve: str | None
    rank: int
    task: str
    requests: int
    documents: int
    scoring: str = ""

    def called(self, names: Mapping[str, str]) -> str:
        """As `PlannedCell.label`; `names` of curves by their labels."""
        place = f"{names[self.curve]} at rank {self.rank}" if self.curve else "base"
        return f"{place} on {self.task}"


class _PlanHead(msgspec.Struct, omit_defaults=True):
    sha256: str = ""


def add_to_plan(folder: Path, rows: Sequence[PlanRow]) -> None:
    """As `write_plan`, beside what the folder's plan holds of other adapters, tasks and ranks."""
    before = read_plan(folder)
    if not set(rows) <= set(before or ()):
        places = {(row.curve, row.rank, row.task) for row in rows}
        others = [r for r in before or () if (r.curve, r.rank, r.task) not in places]
        write_plan(folder, [*rows, *others])


def write_plan(folder: Path, rows: Sequence[PlanRow]) -> None:
    """Keep the plan: a line with its hash, and one with its rows."""
    body = msgspec.json.encode(rows)
    head = msgspec.json.encode(_PlanHead(hashlib.sha256(body).hexdigest()))
    write_atomic(folder / PLAN_FILE, head + b"\n" + body + b"\n")


def read_plan(folder: Path) -> list[PlanRow] | None:
    """The plan of a run folder; None where there is none or it is damaged."""
    try:
        first, _, body = (folder / PLAN_FILE).read_bytes().partition(b"\n")
        body = body.rstrip(b"\n")
        head = msgspec.json.decode(first, type=_PlanHead)
        if head.sha256 == hashlib.sha256(body).hexdigest():
            return msgspec.json.decode(body, type=list[PlanRow])
    except (OSError, ValueError):
        pass
    return None


@dataclass(frozen=True)
class CellStates:
    """Planned cells: whole ones in a store, failed ones, and the others with requests to answer.

    `stale` are those of the others that were scored otherwise, with that scoring.
    """

    done: tuple[PlanRow, ...]
    failed: tuple[PlanRow, ...]
    left: dict[PlanRow, float]
    stale: dict[PlanRow, str]

    @classmethod
    def of(cls, rows: Iterable[PlanRow], store: CellStore, *, retry: bool = False) -> CellStates:
        """Look planned cells up; with `retry` cells that failed are left, too."""
        failures = set() if retry else store.failed_keys()
        done, failed, left, stale = [], [], {}, {}
        for row in rows:
            scoring, documents = store.end(row.key)
            if not same_scoring(scoring, row.scoring):
                stale[row], documents = scoring, 0
            if documents >= row.documents:
                done.append(row)
            elif row.key in failures:
                failed.append(row)
            else:
                left[row] = row.requests * (1 - documents / row.documents)
        return cls(tuple(done), tuple(failed), left, stale)

    def rescored(self) -> list[str]:
        """Why stored cells are computed again: a sentence for each task that scores otherwise."""
        counts = Counter(row.task for row in self.stale)
        changed = {task: dict[str, None]() for task in counts}
        for row, before in self.stale.items():
            changed[row.task].update(dict.fromkeys(changed_parts(before, row.scoring)))
        return [
            f"{', '.join(parts)} of task {task} changed: "
            + (f"{count} cells are" if (count := counts[task]) > 1 else "1 cell is")
            + " computed again"
            for task, parts in changed.items()
        ]
