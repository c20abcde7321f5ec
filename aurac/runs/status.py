"""What is done, running, failed and left: the plan minus what the store has.

A dry run asks this of the plan that it makes, a status of the plan that lies beside the cells. No
model is loaded and no cell is read, so that a folder of 10⁵ cells takes seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aurac.curves.names import label_names
from aurac.errors import RunFolderError
from aurac.files import Json, alive, same_machine, write_atomic
from aurac.records.cell import changed_parts, same_scoring
from aurac.records.results_file import REPORT_FILE, REQUEST_FILE
from aurac.records.store import CellStore
from aurac.runs.folder import RunRequest
from aurac.runs.lock import FOLDER as LOCKS
from aurac.runs.lock import LOCK_SECONDS, read_owner
from aurac.runs.log import cell_costs

PLAN_FILE = "plan.jsonl"
_MOST_FAILURES = 20


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
    further: int = 0


def add_to_plan(folder: Path, rows: Sequence[PlanRow], further: int = 0) -> None:
    """As `write_plan`, beside what the folder's plan holds of other adapters, tasks and ranks."""
    before, followed = read_plan(folder)
    if not set(rows) <= set(before or ()) or followed != further:
        places = {(row.curve, row.rank, row.task) for row in rows}
        others = [r for r in before or () if (r.curve, r.rank, r.task) not in places]
        write_plan(folder, [*rows, *others], further)


def write_plan(folder: Path, rows: Sequence[PlanRow], further: int = 0) -> None:
    """Keep the plan: a line with its hash and the cells that may follow, and one with its rows."""
    body = msgspec.json.encode(rows)
    head = msgspec.json.encode(_PlanHead(hashlib.sha256(body).hexdigest(), further))
    write_atomic(folder / PLAN_FILE, head + b"\n" + body + b"\n")


def read_plan(folder: Path) -> tuple[list[PlanRow] | None, int]:
    """The plan of a run folder, None where there is none or it is damaged; and what may follow."""
    try:
        first, _, body = (folder / PLAN_FILE).read_bytes().partition(b"\n")
        body = body.rstrip(b"\n")
        head = msgspec.json.decode(first, type=_PlanHead)
        if head.sha256 == hashlib.sha256(body).hexdigest():
            return msgspec.json.decode(body, type=list[PlanRow]), head.further
    except (OSError, ValueError):
        pass
    return None, 0


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


@dataclass(frozen=True)
class Status:
    """How a run stands: cells in each state, of `left` those that nobody works on.

    `total`, `left` and `seconds_left` are None where the plan or the logs do not tell; `further` is
    how many cells may follow at most (`--ranks auto`), `notes` what could not be read.
    """

    folder: Path
    total: int | None
    done: int
    running: int
    failed: int
    left: int | None
    seconds_left: float | None
    processes: int
    results: bool
    report: bool
    running_cells: tuple[str, ...] = ()
    further: int = 0
    failures: tuple[dict[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`running`, `unknown`, `stopped`, `no results`, `no report`, `failed` or `done`."""
        if self.running or self.processes:
            return "running"
        if self.total is None:
            return "unknown"
        if self.done + self.failed < self.total:
            return "stopped"
        if not (self.results and self.report):
            return "no report" if self.results else "no results"
        return "failed" if self.failed else "done"

    def to_dict(self) -> dict[str, Json]:
        """Plain values."""
        values = dataclasses.asdict(self)
        if self.seconds_left is not None:
            values["seconds_left"] = round(self.seconds_left, 1)
        return {"folder": str(values.pop("folder")), "state": self.state, **values}


def read_status(folder: Path) -> Status:
    """How the run in `folder` stands; a RunFolderError where it is no run folder."""
    if not (folder / REQUEST_FILE).is_file():
        raise RunFolderError(
            f"{folder} is no run folder (no {REQUEST_FILE})",
            expected="a folder that `aurac compare … --out FOLDER` made",
            fix="`aurac runs` lists those there are",
        )
    request, (plan, further), store = RunRequest.read(folder), read_plan(folder), CellStore(folder)
    rows, notes = plan, tuple[str, ...]()
    if rows is None:  # the cells that are there; how many documents they should have is not known
        keys = sorted({*store.keys(), *store.failed_keys()})
        rows = [PlanRow(key, "unknown curve", 0, key[:12], 0, 1) for key in keys]
        notes = (f"{PLAN_FILE} is missing or damaged: the same command writes it again",)
    states = CellStates.of(rows, store)
    names = label_names(row.curve for row in rows if row.curve)
    failed = [(r.called(names), store.failure(r.key)) for r in states.failed[:_MOST_FAILURES]]
    living = _living(folder / LOCKS)
    processes = len(set(living.values()))
    running = [row.called(names) for row in states.left if row.key in living]
    return Status(
        folder=folder,
        total=None if plan is None else len(plan),
        done=len(states.done),
        running=len(running),
        failed=len(states.failed),
        left=None if plan is None else len(states.left) - len(running),
        seconds_left=_seconds(states.left, folder, max(1, processes)),
        processes=processes,
        results=(folder / "results.json").is_file(),
        report=(folder / REPORT_FILE).is_file(),
        running_cells=tuple(sorted(running)),
        further=further,
        failures=tuple(
            {"cell": cell, "reason": record.reason if record else "its record cannot be read"}
            for cell, record in failed
        ),
        adapters=tuple(request.adapters if request else ()),
        tasks=tuple(request.tasks if request else ()),
        notes=notes,
    )


def _seconds(left: dict[PlanRow, float], folder: Path, processes: int) -> float | None:
    """For what is left, at the mean pace of each task's newest cells in one process."""
    if not left:
        return 0.0
    pace = {
        task: sum(seconds for seconds, _ in cells) / sum(requests for _, requests in cells)
        for task, cells in cell_costs(folder).items()
    }
    if not pace:
        return None
    overall = sum(pace.values()) / len(pace)
    return sum(requests * pace.get(row.task, overall) for row, requests in left.items()) / processes


def _living(locks: Path) -> dict[str, str]:
    """Key → owner of the locks whose owner runs here, or that were touched of late."""
    living = {}
    with contextlib.suppress(OSError):
        for path in locks.glob("*"):
            mark = owner.mark if (owner := read_owner(path)) else ""
            lives = same_machine(mark) and alive(mark)
            if mark and not same_machine(mark):  # for show: clocks of two machines are compared
                lives = abs(time.time() - path.stat().st_mtime) < 2 * LOCK_SECONDS
            if lives:
                living[path.name] = mark
    return living


def find_runs(root: Path, depth: int = 3) -> list[Path]:
    """Run folders at or below `root`, at most `depth` folders down."""
    if (root / REQUEST_FILE).is_file():
        return [root]
    if depth == 0:
        return []
    inner: list[str] = []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        inner = [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
    return [run for path in sorted(inner) for run in find_runs(Path(path), depth - 1)]
