"""The files of a report, written beside the results they were made from."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.errors import RunFolderError
from aurac.report import html, latex, markdown, tables
from aurac.report.build import Builder
from aurac.report.escape import csv_cell, one_line
from aurac.report.merge import merge
from aurac.report.model import Run, parse, read_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FIGURES = "figures"


def write_report(run_folder: Path, *more: Path, out: Path | None = None) -> list[Path]:
    """Write the report of a run folder, or of several runs that may be compared.

    Makes `report.md`, `report.html`, `figures/`, `table.csv` (one row for each curve),
    `points.csv` (one for each curve and rank) and `table.tex`. The same inputs give the same
    bytes, and no model is loaded.

    Args:
        run_folder: A folder with `results.json`, and `cells/` where documents were kept.
        *more: Further runs, measured on the same documents with the same prompts and base.
        out: Where to write; the run folder itself when there is a single one.

    Returns:
        The files written, in the order above.

    Raises:
        RunFolderError: a result file is missing or unreadable, the runs cannot be compared, or
            several runs were given without `out`.
    """
    folders = [Path(run_folder), *map(Path, more)]
    if len(folders) > 1 and out is None:
        raise RunFolderError(
            f"{len(folders)} runs without a folder for their report", fix="give --out FOLDER"
        )
    runs = [parse(read_results(folder), folder) for folder in folders]
    target = Path(out) if out is not None else folders[0]
    return _write(merge(runs) if len(runs) > 1 else runs[0], target)


def _write(run: Run, target: Path) -> list[Path]:
    figures = target / FIGURES
    try:
        figures.mkdir(parents=True, exist_ok=True)
        builder = Builder(run, figures)
        report = builder.report()
        texts = {
            "report.md": markdown.render(report),
            "report.html": html.render(report),
            "table.csv": _csv(tables.CSV_SCORES, tables.score_rows(run)),
            "points.csv": _csv(tables.CSV_POINTS, tables.point_rows(run)),
            "table.tex": latex.render(run),
        }
        written = {name: _store(target / name, text) for name, text in texts.items()}
    except OSError as error:
        raise RunFolderError(
            f"the report cannot be written to {one_line(target)} ({one_line(error)})"
        ) from error
    pages = [written["report.md"], written["report.html"]]
    return [
        *pages,
        *builder.pictures.files,
        *(path for path in written.values() if path not in pages),
    ]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _store(path: Path, text: str) -> Path:
    """Write whole or not at all: a reader never sees half a report."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
