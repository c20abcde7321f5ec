"""A run folder → lm-eval's own results and sample logs, and what a hub's repository shows.

``OUT/ADAPTER/rank_R/MODEL/{results_DATE.json, samples_TASK_DATE.jsonl}``, as ``lm-eval run
--output_path OUT/ADAPTER/rank_R --log_samples`` would have written them; the base lies in
``OUT/base/rank_0``. How the adapter was cut is in ``config.model_args``. ``OUT/ADAPTER`` also has
the adapter's model card and, for tasks whose data are on the hub, ``.eval_results/TASK.yaml``.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import eval_result_entries_to_yaml

from aurac.adapters.export import check_free
from aurac.analysis import Question, analyse
from aurac.exports.lm_eval_files import ExportFolder, model_folder, results, safe, sample_rows
from aurac.exports.model_card import card, default_curves, hub_entries
from aurac.files import fresh_folder, write_atomic
from aurac.notebook import load_run
from aurac.records.manifest import AdapterInfo, CutInfo
from aurac.records.run import Logged, StoredRun


def export(run_folder: Path, out: Path, margin: float | None = None) -> list[Path]:
    """Write a run as lm-eval's files and model cards into a new or empty folder.

    Args:
        run_folder: The run.
        out: The folder to write to.
        margin: The accuracy that the rank to ship may lose; None: the margin of the run's question.

    Returns:
        The ``results_*.json`` files, one for each adapter (or further cut of one) and rank.

    Raises:
        RunFolderError: No run, one that did not keep its prompts, or files at `out`.
    """
    run = load_run(run_folder)
    question = Question(margin=margin or run.question.margin)
    check_free(out, force=False)
    with fresh_folder(out) as folder:
        export_folders = list(_export_folders(run))
        written = [_write(run, each, folder) for each in export_folders]
        cells = [item for each in export_folders for item in each.cells.items()]
        told = {name: logged.rows[0] for name, logged in cells}
        places = _folders(run)
        for adapter in run.adapters:
            if (place := folder / places[adapter.name]).is_dir():
                _write_repository(run, adapter, place, told, question)
    return [out / path.relative_to(folder) for path in written]


def _export_folders(run: StoredRun) -> Iterator[ExportFolder]:
    """The base, and each cut of each adapter at each rank; cells that are not whole are left out.

    An adapter's further cuts lie in folders ``ADAPTER@BASIS-RESCALE``. The base's folder is
    ``base``, with ``_`` before it where an adapter is called so.
    """
    base, folders = "base", _folders(run)
    while base in folders.values():
        base = f"_{base}"
    if cells := _cells(run, None, 0):
        yield ExportFolder(base, 0, None, cells)
    seen: set[str] = set()
    for cut in run.cuts:
        name = folders[cut.adapter]
        folder = f"{name}@{cut.basis}-{cut.rescale}" if cut.adapter in seen else name
        seen.add(cut.adapter)
        for rank in cut.ranks:
            if cells := _cells(run, cut, rank):
                yield ExportFolder(folder, rank, cut, cells)


def _folders(run: StoredRun) -> dict[str, str]:
    """Adapter → its folder, which no other one has."""
    folders: dict[str, str] = {}
    for adapter in run.adapters:
        folder = safe(adapter.name)
        while folder in folders.values():
            folder = f"{folder}_"
        folders[adapter.name] = folder
    return folders


def _cells(run: StoredRun, cut: CutInfo | None, rank: int) -> dict[str, Logged]:
    """Task (no group) → its cell and examples."""
    leaves = dict.fromkeys(leaf.name for task in run.tasks for leaf in run.leaves(task))
    return {name: found for name in leaves if (found := run.logged(name, cut, rank)) is not None}


def _write(run: StoredRun, export_folder: ExportFolder, out: Path) -> Path:
    model = model_folder(str(run.provenance["base"]))
    folder = out / export_folder.folder / f"rank_{export_folder.rank}" / model
    folder.mkdir(parents=True)
    started = dt.datetime.fromisoformat(str(run.provenance["started"]))
    date = started.strftime("%Y-%m-%dT%H-%M-%S.%f")  # as lm-eval writes it into file names
    for task, logged in export_folder.cells.items():
        rows = [json.dumps(row, ensure_ascii=False) for row in sample_rows(logged)]
        text = "".join(f"{row}\n" for row in rows)
        (folder / f"samples_{safe(task)}_{date}.jsonl").write_text(text, encoding="utf-8")
    path = folder / f"results_{date}.json"
    content = results(run, export_folder)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def _write_repository(
    run: StoredRun, adapter: AdapterInfo, place: Path, told: Mapping[str, Any], question: Question
) -> None:
    """The model card of an adapter with a curve, and its results as the hub reads them."""
    if not (curves := default_curves(run, adapter)):
        return
    analysis = analyse(curves.values(), question)
    write_atomic(place / "README.md", card(run, adapter, curves, analysis))
    for task, entry in hub_entries(run, curves, analysis, told).items():
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        write_atomic(place / ".eval_results" / f"{safe(task)}.yaml", text)
