"""The files of a report, written beside the results they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aurac.errors import RunFolderError, UsageError
from aurac.files import write_atomic
from aurac.report import data, html, hub, latex, markdown
from aurac.report.build import Builder
from aurac.report.escape import one_line
from aurac.report.merge import merge
from aurac.report.model import Run, parse
from aurac.report.pictures import unique_slugs
from aurac.report.pool import Groups, pooled
from aurac.runs.schema import REPORT_FILE, Results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.report.findings import Findings
    from aurac.report.paired import Difference

_T = TypeVar("_T")
FIGURES, CARDS = "figures", "cards"


def write_report(
    run_folder: Path,
    *more: Path,
    out: Path | None = None,
    groups: Groups | None = None,
    delta: float | None = None,
) -> list[Path]:
    """Write the report of a run folder, or of several runs that may be compared.

    Makes `report.md`, `report.html`, `figures/` (with PDFs for a paper in `figures/paper/`),
    `table.tex`, a model card for each adapter in `cards/`, and the numbers as CSV and Parquet:
    `table` (one row for each curve), `points` (for each curve and rank), and where there are any
    `pairs`, `rivals` (prefix minus SVD), `losses`, `changes` and `groups`. The same inputs give the
    same bytes, and no model is loaded.

    Args:
        run_folder: A folder with `results.json`, and `cells/` where documents were kept.
        *more: Further runs, measured on the same documents with the same prompts and base.
        out: Where to write; the run folder itself when there is a single one.
        groups: ``arm name -> adapter names`` that are training seeds of one recipe, beside those
            whose recorded recipes say so.
        delta: The margin: the loss against the highest rank, as a fraction, that a non-inferior
            rank may have. Without it the report assumes 0.02, and says so.

    Returns:
        The files written, the pages first.

    Raises:
        RunFolderError: a result file is missing or unreadable, the runs cannot be compared, or
            several runs were given without `out`.
        UsageError: a delta outside of (0, 1).
        CurveError: a group of adapters that are not there.
    """
    if delta is not None and not 0 < delta < 1:
        raise UsageError(f"delta {delta:g}", expected="a tolerable loss as a fraction, such as .02")
    folders = [Path(run_folder), *map(Path, more)]
    if len(folders) > 1 and out is None:
        raise RunFolderError(
            f"{len(folders)} runs without a folder for their report", fix="give --out FOLDER"
        )
    runs = [parse(Results.read(folder).to_dict(), folder) for folder in folders]
    target = Path(out) if out is not None else folders[0]
    run = merge(runs) if len(runs) > 1 else runs[0]
    return _write(pooled(run, groups), target, delta)


def _write(run: Run, target: Path, delta: float | None) -> list[Path]:
    figures = target / FIGURES
    try:
        figures.mkdir(parents=True, exist_ok=True)
        builder = Builder(run, figures, delta)
        report = builder.report()
        texts = {
            REPORT_FILE: markdown.render(report),
            "report.html": html.render(report),
            "table.tex": latex.render(run),
            **_cards(run, builder.delta, builder.margin, brief=builder.large),
        }
        files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
        files |= _numbers(builder)
        for name, content in reversed(files.items()):  # REPORT_FILE last
            write_atomic(target / name, content)
    except OSError as error:
        raise RunFolderError(
            f"the report cannot be written to {one_line(target)} ({one_line(error)})"
        ) from error
    written = [target / name for name in files]
    return [*written[:2], *builder.pictures.files, *written[2:]]


def _cards(run: Run, delta: float, note: str, *, brief: bool) -> dict[str, str]:
    names = unique_slugs([str(adapter.get("name")) for adapter in run.adapters])
    found = {}
    for adapter in run.adapters:
        text = hub.card(run, adapter, delta=delta, note=note, brief=brief)
        if text:
            found[f"{CARDS}/{names[str(adapter.get('name'))]}.md"] = text
    return found


def _numbers(builder: Builder) -> Mapping[str, bytes]:
    """The numbers by file name; what the run has none of gets no file."""
    run, found = builder.run, builder.found
    tables = {
        "table": (data.SCORES, data.score_rows(run)),
        "points": (data.POINTS, data.point_rows(run)),
        "pairs": (data.PAIRS, data.pair_rows(_flat(found.pairs))),
        "rivals": (data.PAIRS, data.pair_rows(_rivals(found))),
        "losses": (data.LOSSES, data.loss_rows(found.certificates.values(), found.joint)),
        "changes": (data.CHANGES, data.change_rows(_flat(found.changes))),
        "groups": (data.GROUPS, data.group_rows(_flat(found.groups))),
    }
    files = {}
    for name, (header, rows) in tables.items():
        if rows or name in ("table", "points"):
            files[f"{name}.csv"] = data.as_csv(header, rows)
            files[f"{name}.parquet"] = data.as_parquet(header, rows)
    return files


def _flat(by_task: Mapping[str, Sequence[_T]]) -> list[_T]:
    return [item for several in by_task.values() for item in several]


def _rivals(found: Findings) -> list[Difference]:
    return [item.difference for item in _flat(found.rivals) if item.difference is not None]
