"""A run folder → lm-eval's own results and sample logs, and a model card for each adapter.

``OUT/ADAPTER/rank_R/MODEL/{results_DATE.json, samples_TASK_DATE.jsonl}``, as ``lm_eval
--output_path OUT/ADAPTER/rank_R --log_samples`` would have written them; the base lies in
``OUT/base/rank_0``. How the adapter was cut is in ``config.model_args`` under ``aurac``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aurac.adapters.export import check_free
from aurac.exports.lm_eval_files import Point, model_folder, results, safe, sample_rows
from aurac.exports.model_card import card
from aurac.files import fresh_folder
from aurac.records.cells import Cell
from aurac.records.manifest import CutInfo
from aurac.records.run import StoredRun, read_run

BASE = "base"


def export(run_folder: Path, out: Path, margin: float | None = None) -> list[Path]:
    """Write a run as lm-eval's files and model cards into a new or empty folder.

    With a margin the cards say which rank to ship.

    Returns:
        The ``results_*.json`` files, one for each adapter (or further cut of one) and rank.

    Raises:
        RunFolderError: No run, one that did not keep its prompts, or files at `out`.
    """
    run = read_run(run_folder)
    check_free(out, force=False)
    leaves = {leaf.name for task in run.tasks for leaf in run.leaves(task)}
    requests = {task: run.requests(task) for task in sorted(leaves)}
    with fresh_folder(out) as folder:
        written = [_write(run, point, folder, requests) for point in _points(run)]
        for adapter in run.adapters:
            if (folder / safe(adapter.name)).is_dir() and (text := card(run, adapter, margin)):
                path = folder / safe(adapter.name) / "README.md"
                path.write_text(text, encoding="utf-8")
    return [out / path.relative_to(folder) for path in written]


def _points(run: StoredRun) -> Iterator[Point]:
    """The base, and each cut of each adapter at each rank; cells that are not whole are left out.

    An adapter's further cuts lie in folders ``ADAPTER@BASIS-RESCALE``.
    """
    if base := _cells(run, None, 0):
        yield Point(BASE, 0, None, base)
    seen: set[str] = set()
    for cut in run.manifest.cuts:
        name = safe(cut.adapter)
        folder = f"{name}@{cut.basis}-{cut.rescale}" if cut.adapter in seen else name
        seen.add(cut.adapter)
        for rank in cut.ranks:
            if cells := _cells(run, cut, rank):
                yield Point(folder, rank, cut, cells)


def _cells(run: StoredRun, cut: CutInfo | None, rank: int) -> dict[str, Cell]:
    """Task (no group) → its cell."""
    leaves = (leaf for task in run.tasks for leaf in run.leaves(task))
    cells = {leaf.name: run.cell(leaf, cut, rank) for leaf in leaves}
    return {name: cell for name, cell in cells.items() if cell is not None}


def _write(run: StoredRun, point: Point, out: Path, requests: dict[str, list[Any]]) -> Path:
    folder = out / point.folder / f"rank_{point.rank}" / model_folder(str(run.provenance["base"]))
    folder.mkdir(parents=True)
    moment = re.sub(r"[+Z].*$", "", str(run.provenance["started"])).replace(":", "-")
    date = moment if "." in moment else f"{moment}.000000"  # as lm-eval writes it into file names
    for task, cell in point.cells.items():
        rows = sample_rows(cell, run.keys(run.task(task)), requests[task][1:])
        with (folder / f"samples_{safe(task)}_{date}.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    path = folder / f"results_{date}.json"
    content = results(run, point, {task: rows[0] for task, rows in requests.items()})
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path
