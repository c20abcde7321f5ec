"""A run folder → lm-eval's own results and samples, a folder for each adapter and rank.

``OUT/ADAPTER/rank_R/MODEL/{results_DATE.json, samples_TASK_DATE.jsonl}``, as `lm_eval
--output_path OUT/ADAPTER/rank_R --log_samples` would have written them; the base lies in
``OUT/base/rank_0``. How the adapter was cut is in ``config.model_args`` under ``aurac``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aurac.errors import RunFolderError, UsageError
from aurac.exports.lm_eval_files import aggregated, model_folder, safe, sample_rows
from aurac.files import fresh_folder
from aurac.records.reader import StoredCells, inside
from aurac.records.requests import StoredRequests
from aurac.records.results_file import CurveRecord, Results, TaskRecord

BASE = "base"


class Point(NamedTuple):
    """One folder: a curve (None: the base) at a rank, and for each task a curve with its cell."""

    folder: str
    rank: int
    curve: CurveRecord | None
    cells: Mapping[str, CurveRecord]


def export_lm_eval(run_folder: Path, out: Path) -> list[Path]:
    """Write a run as lm-eval's results and sample logs into a new or empty folder.

    Returns:
        The ``results_*.json`` files, one for each adapter (or truncation of one) and rank.

    Raises:
        RunFolderError: No results, a run that did not keep its prompts, or no place to write.
        UsageError: `out` holds files.
    """
    results = Results.read(run_folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} holds files", expected="a new or an empty folder")
    if drawn := [task.name for task in results.tasks if task.drawn is True]:
        raise UsageError(
            f"{run_folder} has several draws of the few-shot examples of {drawn[0]}",
            expected="one draw, as lm-eval's results have",
            fix="run `aurac compare` without --fewshot-seeds into another folder and export that",
        )
    leaves = [task for task in results.tasks if not task.members]
    shared = {task.name: _requests(run_folder, task) for task in leaves}
    points = _points([row for row in results.curves if row.task in shared])
    stored = StoredCells(run_folder, results)
    with fresh_folder(out) as folder:
        written = [_write(point, folder, stored, results, shared) for point in points]
    return [out / path.relative_to(folder) for path in written]


def _requests(run_folder: Path, task: TaskRecord) -> StoredRequests:
    where = inside(run_folder, task.requests) if task.requests else None
    if where is None or not where.is_file():
        raise RunFolderError(
            f"{run_folder} did not keep the prompts of {task.name}",
            fix="run its `aurac compare` again, for a stored report with a new --out, and export "
            "that run",
        )
    return StoredRequests.read(where)


def _points(rows: Sequence[CurveRecord]) -> list[Point]:
    points = [Point(BASE, 0, None, _cells(rows, 0))]
    taken = {BASE}
    for curve in dict.fromkeys(row.id for row in rows):
        same = [row for row in rows if row.id == curve]
        folder = _folder(same[0], taken)
        ranks = sorted({rank for row in same for rank in row.ranks})
        points += [Point(folder, rank, same[0], _cells(same, rank)) for rank in ranks]
    return [point for point in points if point.cells]


def _cells(rows: Sequence[CurveRecord], rank: int) -> dict[str, CurveRecord]:
    """Task → a curve that has this rank; of the base the one with the most documents."""
    with_most_last = sorted(rows, key=lambda row: row.n_docs or 0)
    return {row.task: row for row in with_most_last if row.files(rank)}


def _folder(curve: CurveRecord, taken: set[str]) -> str:
    """A folder name for a curve: the adapter's, with its truncation where that is a variant."""
    name = safe(curve.adapter) + ("" if curve.default else f"@{curve.basis}-{curve.rescale}")
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = next(name for name in names if name not in taken)
    taken.add(free)
    return free


def _write(
    point: Point,
    out: Path,
    stored: StoredCells,
    results: Results,
    shared: Mapping[str, StoredRequests],
) -> Path:
    model = str(results.provenance.base.name)
    folder = out / point.folder / f"rank_{point.rank}" / model_folder(model)
    folder.mkdir(parents=True)
    moment = re.sub(r"[+Z].*$", "", str(results.provenance.finished)).replace(":", "-")
    date = moment if "." in moment else f"{moment}.000000"  # as lm-eval writes it into file names
    cells = {}
    for task, row in point.cells.items():
        (cells[task],) = stored.read(row, point.rank)
        with (folder / f"samples_{safe(task)}_{date}.jsonl").open("w", encoding="utf-8") as lines:
            for sample in sample_rows(cells[task], shared[task]):
                lines.write(json.dumps(sample, ensure_ascii=False) + "\n")
    curve, made = point.curve, results.provenance
    adapter = next((a for a in results.adapters if curve and a.name == curve.adapter), None)
    args: dict[str, object] = {"pretrained": made.base.name, "dtype": made.dtype}
    if curve and adapter:
        cut = {"rank": point.rank, "basis": curve.basis, "rescale": curve.rescale}
        args |= {"peft": adapter.path, "aurac": cut}
    content = aggregated(cells, shared, results, args, adapter)
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path
