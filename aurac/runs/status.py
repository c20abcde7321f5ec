"""What is done, running, failed and left in a run folder, from listings alone: no model, no cells.

The plan lies beside the cells, so that a folder of 10⁵ cells is read in a fraction of a second. The
time left is an estimate from the newest lines of the logs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aurac.errors import RunFolderError
from aurac.files import alive, same_machine, write_atomic
from aurac.runs.folder import REQUEST_FILE, read_request
from aurac.runs.lock import FOLDER as LOCKS
from aurac.runs.lock import LOCK_SECONDS, read_owner
from aurac.runs.log import LOGS
from aurac.runs.schema import REPORT_FILE
from aurac.runs.store import CellStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


PLAN_FILE = "plan.jsonl"
PLAN_SCHEMA = 1
_TAIL_BYTES = 1 << 16  # of each log
_LOGS_READ = 32


class PlanRow(NamedTuple):
    """A planned cell, without what it takes to compute it."""

    key: str
    curve: str | None
    rank: int
    task: str
    requests: int
    documents: int

    @property
    def label(self) -> str:
        """As in progress and messages."""
        who = "base" if self.curve is None else f"{self.curve} · rank {self.rank}"
        return f"{self.task} · {who}"


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        folder: The run folder.
        total: Planned cells; None where the plan cannot be read.
        done, running, failed, left: Cells in each state; `left` counts those that nobody works on.
        running_cells: Label → whether its owner shows life.
        failures: (label, reason) of failed cells, the first few.
        seconds_left: Estimate; None without anything to go by.
        processes: Processes that show life.
        finished: Whether there are results.
        reported: Whether there is a whole report of them.
        notes: What could not be read.
    """

    folder: Path
    total: int | None
    done: int
    running: int
    failed: int
    left: int | None
    seconds_left: float | None
    processes: int
    finished: bool
    reported: bool
    running_cells: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def state(self) -> str:
        """`running`, `unknown`, `stopped`, `no results`, `no report`, `failed` or `done`."""
        if self.running or self.processes:
            return "running"
        if self.total is None:
            return "unknown"
        if self.done + self.failed < self.total:
            return "stopped"
        if not (self.finished and self.reported):
            return "no report" if self.finished else "no results"
        return "failed" if self.failed else "done"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "state": self.state,
            "total": self.total,
            "done": self.done,
            "running": self.running,
            "failed": self.failed,
            "left": self.left,
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "processes": self.processes,
            "results": self.finished,
            "report": self.reported,
            "running_cells": list(self.running_cells),
            "failures": [{"cell": cell, "reason": reason} for cell, reason in self.failures],
            "adapters": list(self.adapters),
            "tasks": list(self.tasks),
            "notes": list(self.notes),
        }


def add_to_plan(folder: Path, plan: Sequence[PlanRow]) -> None:
    """Keep a plan beside what the folder's plan holds of other adapters, tasks and ranks.

    Raises:
        OSError: The folder cannot be written.
    """
    before = read_plan(folder) or []
    if not set(plan) <= set(before):
        places = {(row.curve, row.rank, row.task) for row in plan}
        others = [r for r in before if (r.curve, r.rank, r.task) not in places]
        write_plan(folder, [*plan, *others])


def write_plan(folder: Path, plan: Sequence[PlanRow]) -> None:
    """Keep the plan for `read_status`: a line with its hash, and a line with its cells.

    Raises:
        OSError: The folder cannot be written.
    """
    curves: dict[str | None, int] = {None: -1}
    tasks: dict[str, int] = {}
    rows = []
    for row in plan:
        place = curves.setdefault(row.curve, len(curves) - 1)
        rows.append([row.key, place, row.rank, tasks.setdefault(row.task, len(tasks))])
    sizes = {row.task: [row.requests, row.documents] for row in plan}
    content = {
        "curves": [curve for curve in curves if curve is not None],
        "tasks": [[name, *sizes[name]] for name in tasks],
        "cells": rows,
    }
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    head = {"schema": PLAN_SCHEMA, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    text = f"{json.dumps(head)}\n{body}\n"
    path = folder / PLAN_FILE
    if not path.is_file() or _read_text(path) != text:
        write_atomic(path, text)


def read_plan(folder: Path) -> list[PlanRow] | None:
    """The plan of a run folder; None where there is none or it is damaged."""
    head, _, body = (_read_text(folder / PLAN_FILE) or "").partition("\n")
    body = body.rstrip("\n")
    try:
        if json.loads(head)["sha256"] != hashlib.sha256(body.encode()).hexdigest():
            return None
        plan = json.loads(body)
        curves, tasks = plan["curves"], plan["tasks"]
        return [
            PlanRow(key, curves[curve] if curve >= 0 else None, rank, *tasks[task])
            for key, curve, rank, task in plan["cells"]
        ]
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def read_status(folder: Path, *, most_failures: int = 20) -> Status:
    """How the run in `folder` stands.

    Raises:
        RunFolderError: It is no run folder.
    """
    if not (folder / REQUEST_FILE).is_file():
        raise RunFolderError(
            f"{folder} is no run folder (no {REQUEST_FILE})",
            expected="a folder that `aurac compare … --out FOLDER` made",
            fix="`aurac runs` lists those there are",
        )
    request, plan, store = read_request(folder) or {}, read_plan(folder), CellStore(folder)
    rows = {row.key: row for row in plan or ()}
    keys = store.keys()
    counts = {key: store.count(key) for key in (keys if plan is None else keys & rows.keys())}
    failed = store.failed_keys()
    notes = []
    if plan is None:  # how many documents a cell should have is not known: those with any count
        notes.append(f"{PLAN_FILE} is missing or damaged: the same command writes it again")
        done = {key for key, count in counts.items() if count} - failed
    else:
        done = {key for key, count in counts.items() if count >= rows[key].documents}
        failed = (failed & rows.keys()) - done
    living = _living(folder / LOCKS)
    held = {key for key in living if key in rows} - done - failed
    open_keys = rows.keys() - done - failed
    processes = len(set(living.values()))
    return Status(
        folder=folder,
        total=None if plan is None else len(plan),
        done=len(done),
        running=len(held),
        failed=len(failed),
        left=None if plan is None else len(open_keys - held),
        seconds_left=_seconds_left(
            {rows[key]: counts.get(key, 0) for key in open_keys}, folder, max(1, processes)
        ),
        processes=processes,
        finished=(folder / "results.json").is_file(),
        reported=(folder / REPORT_FILE).is_file(),
        running_cells=tuple(sorted(rows[key].label for key in held)),
        failures=tuple(_failures(store, failed, rows))[:most_failures],
        adapters=tuple(request.get("adapters", ())),
        tasks=tuple(request.get("tasks", ())),
        notes=tuple(notes),
    )


def _failures(
    store: CellStore, failed: set[str], rows: dict[str, PlanRow]
) -> Iterator[tuple[str, str]]:
    for key in sorted(failed):
        record = store.failure(key) if os.access(store.failed, os.R_OK) else None
        label = rows[key].label if key in rows else key[:12]
        yield label, str((record or {}).get("reason", "its record cannot be read"))


def _living(locks: Path) -> dict[str, str]:
    """Key → owner of the locks whose owner runs here, or that were touched of late."""
    living = {}
    with contextlib.suppress(OSError), os.scandir(locks) as entries:
        for entry in entries:
            owner = read_owner(Path(entry.path))
            if owner is None:
                continue
            if same_machine(owner.mark):
                if alive(owner.mark):
                    living[entry.name] = owner.mark
                continue
            # For show only: this machine's clock is compared with that of the file system.
            with contextlib.suppress(OSError):
                if abs(time.time() - entry.stat().st_mtime) < 2 * LOCK_SECONDS:
                    living[entry.name] = owner.mark
    return living


def _seconds_left(rows: Mapping[PlanRow, int], folder: Path, processes: int) -> float | None:
    """From the mean time per request of each task, in the newest lines of the newest logs.

    Args:
        rows: Open cells, with how many of their documents are there.
        folder: The run folder.
        processes: How many share the work.
    """
    if not rows:
        return 0.0
    spent: dict[str, float] = defaultdict(float)
    answered: Counter[str] = Counter()
    for event in _newest_events(folder / LOGS):
        if event.get("event") == "cell":
            with contextlib.suppress(KeyError, TypeError, ValueError):
                seconds, requests = float(event["seconds"]), int(event["requests"])
                spent[event["task"]] += seconds
                answered[event["task"]] += requests
    total = sum(answered.values())
    if not total:
        return None
    overall = sum(spent.values()) / total
    pace = {task: spent[task] / count for task, count in answered.items() if count}
    return (
        sum(
            row.requests * (1 - there / max(1, row.documents)) * pace.get(row.task, overall)
            for row, there in rows.items()
        )
        / processes
    )


def _newest_events(logs: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        for path in sorted(logs.glob("*.jsonl"))[-_LOGS_READ:]:
            with path.open("rb") as handle:
                handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                lines = handle.read().splitlines()
            for line in lines:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event


def find_runs(root: Path, depth: int = 3) -> list[Path]:
    """Run folders at or below `root`, at most `depth` folders down."""
    if (root / REQUEST_FILE).is_file():
        return [root]
    if depth == 0:
        return []
    found = []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        inner = [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
        for path in sorted(inner):
            found += find_runs(Path(path), depth - 1)
    return found
