"""The files of a report, written beside the results they were made from."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aurac.errors import RunFolderError, UsageError
from aurac.files import write_atomic
from aurac.report import model_card, render
from aurac.report.build import Builder
from aurac.report.comparisons import Groups, pooled
from aurac.report.escape import csv_cell, one_line
from aurac.report.figures import unique_slugs
from aurac.report.model import Run, merge, ordered, parse
from aurac.runs.schema import REPORT_FILE, Results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aurac.report.comparisons import Difference, Findings, Group
    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Interval
    from aurac.stats import NonInferiorRank


Rows = list[list[object]]
_CURVE = ("task", "adapter", "basis", "rescale", "role", "metric", "seeds", "seed")
SCORES = (
    *_CURVE,
    "method",
    "rank_lowest",
    "rank_highest",
    "n_ranks",
    "n_docs",
    "aurac_log2",
    "aurac_log2_se",
    "aurac_log2_low",
    "aurac_log2_high",
    "aurac_linear",
    "aurac_linear_se",
    "aurac_linear_low",
    "aurac_linear_high",
    "mean",
    "base_accuracy",
    "note",
)
POINTS = (
    *_CURVE,
    "rank",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "weight_log2",
    "weight_linear",
    "parameters",
    "bytes",
    "n_docs",
    "missing",
)
PAIRS = (
    *(f"first_{name}" for name in ("task", "adapter", "basis", "rescale")),
    *(f"second_{name}" for name in ("adapter", "basis", "rescale")),
    "difference",
    "low",
    "high",
    "p_holm",
    "detectable",
    "n_docs",
    "interval",
)
LOSSES = (
    *_CURVE,
    "rank",
    "reference",
    "loss",
    "loss_upper",
    "changed",
    "tolerance_needed",
    "loss_upper_joint",
    "tolerance",
    "certified",
)
CHANGES = ("task", "curve", "rank_lower", "rank_upper", "gained", "lost", "n_docs")
GROUPS = (*_CURVE, "group", "n_docs", "rank", "measure", "value", "low", "high", "base_accuracy")
_WHOLE = {
    "seeds",
    "seed",
    "rank",
    "rank_lowest",
    "rank_highest",
    "rank_lower",
    "rank_upper",
    "n_ranks",
    "n_docs",
    "parameters",
    "bytes",
    "reference",
    "gained",
    "lost",
}
_TEXT = {
    *_CURVE,
    "method",
    "note",
    "missing",
    "interval",
    "curve",
    "group",
    "measure",
    "certified",
} - _WHOLE


def _curve(curve: CurveRow) -> list[object]:
    names: list[object] = [curve.task, curve.adapter, curve.basis, curve.rescale, curve.role]
    return [*names, curve.metric, curve.seeds, curve.seed]


def _each(run: Run) -> Iterator[CurveRow]:
    """The curves by task and falling AURAC, each mean followed by its seeds."""
    for task in run.task_names:
        for curve in ordered(run.of_task(task)):
            yield curve
            yield from curve.members


def score_rows(run: Run) -> Rows:
    """One row for each curve."""
    return [_score_row(curve) for curve in _each(run)]


def _score_row(curve: CurveRow) -> list[object]:
    areas = [part for area in (curve.log2, curve.linear) for part in _four(area)]
    ends: list[object] = [curve.ranks[0], curve.ranks[-1]] if curve.ranks else [None, None]
    counts = [len(curve.ranks), curve.n_docs]
    tail = [curve.mean, curve.baseline, curve.score_reason]
    return [*_curve(curve), curve.method, *ends, *counts, *areas, *tail]


def _four(area: Interval | None) -> list[float | None]:
    return [area.value, area.se, area.low, area.high] if area else [None] * 4


def point_rows(run: Run) -> Rows:
    """One row for each curve and rank, a missing one with its reason; rank 0 is the base."""
    return [row for curve in _each(run) for row in _points(curve)]


def _points(curve: CurveRow) -> Rows:
    rows: list[tuple[int, list[object]]] = []
    if curve.baseline is not None:
        rows.append((0, [0, curve.baseline, *[None] * 6, curve.n_docs, None]))
    for at, rank in enumerate(curve.ranks):
        weights = [_at(curve.weights.get(axis, ()), at) for axis in ("log2", "linear")]
        limits = [curve.accuracy[at], curve.low[at], curve.high[at]]
        costs = [curve.parameters[at], curve.bytes[at], curve.n_docs, None]
        rows.append((rank, [rank, *limits, *weights, *costs]))
    for rank, why in curve.missing.items():
        rows.append((rank, [rank, *[None] * 8, why]))
    return [[*_curve(curve), *row] for _, row in sorted(rows, key=lambda item: item[0])]


def _at(values: Sequence[float], at: int) -> float | None:
    return values[at] if at < len(values) else None


def pair_rows(found: Iterable[Difference]) -> Rows:
    """One row for each paired difference of AURAC (log2), first minus second."""
    return [
        [
            item.first.task,
            *(getattr(item.first, name) for name in ("adapter", "basis", "rescale")),
            *(getattr(item.second, name) for name in ("adapter", "basis", "rescale")),
            item.value,
            item.low,
            item.high,
            item.adjusted,
            item.detectable,
            item.n_docs,
            item.method,
        ]
        for item in found
    ]


def loss_rows(
    found: Iterable[tuple[CurveRow, NonInferiorRank | None]],
    joint: Mapping[str, Mapping[int, float]],
) -> Rows:
    """One row for each rank below the highest one of a curve.

    ``loss_upper`` and ``tolerance_needed`` hold at 95 % each by itself, the ``loss_upper_joint`` of
    a task all together.
    """
    return [
        [
            *_curve(curve),
            step.rank,
            known.reference,
            step.loss,
            step.upper,
            step.flip_rate,
            step.margin_needed,
            joint.get(curve.id, {}).get(step.rank),
            known.margin,
            "yes" if step.margin_needed < known.margin else "no",
        ]
        for curve, known in found
        if known is not None
        for step in known.tests
    ]


def change_rows(found: Iterable[Changes]) -> Rows:
    """One row for each step of each curve."""
    return [
        [item.task, item.label, step.lower, step.upper, step.gained, step.lost, item.n_docs]
        for item in found
        for step in item.steps
    ]


def group_rows(found: Iterable[Group]) -> Rows:
    """The area, and the accuracy at each rank, of each curve on each group of documents."""
    rows = []
    for group in found:
        measured: list[tuple[int | None, str, Interval]] = [(None, "aurac_log2", group.log2)]
        measured += [
            (rank, "accuracy", at)
            for rank, at in zip(group.curve.ranks, group.accuracy, strict=True)
        ]
        for rank, measure, value in measured:
            row = [*_curve(group.curve), group.name, group.n_docs, rank, measure]
            rows.append([*row, value.value, value.low, value.high, group.baseline])
    return rows


def as_csv(header: Sequence[str], rows: Rows) -> bytes:
    """A CSV file with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode()


def as_parquet(header: Sequence[str], rows: Rows) -> bytes:
    """The same with types: text, 64-bit whole numbers, 64-bit floating point."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    table = pa.table(
        {
            name: pa.array([_typed(value, kind) for value in column], kind)
            for name, column in zip(header, columns, strict=True)
            for kind in [_kind(name, pa)]
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _kind(name: str, pa: object) -> object:
    short = name.removeprefix("first_").removeprefix("second_")
    if short in _TEXT:
        return pa.string()  # type: ignore[attr-defined]
    return pa.int64() if name in _WHOLE else pa.float64()  # type: ignore[attr-defined]


def _typed(value: object, kind: object) -> object:
    if value is None or str(kind) != "string":
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


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
            REPORT_FILE: render.markdown(report),
            "report.html": render.html(report),
            "table.tex": render.latex(run),
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
        text = model_card.card(run, adapter, delta=delta, note=note, brief=brief)
        if text:
            found[f"{CARDS}/{names[str(adapter.get('name'))]}.md"] = text
    return found


def _numbers(builder: Builder) -> Mapping[str, bytes]:
    """The numbers by file name; what the run has none of gets no file."""
    run, found = builder.run, builder.found
    tables = {
        "table": (SCORES, score_rows(run)),
        "points": (POINTS, point_rows(run)),
        "pairs": (PAIRS, pair_rows(_flat(found.pairs))),
        "rivals": (PAIRS, pair_rows(_rival_differences(found))),
        "losses": (LOSSES, loss_rows(found.certificates.values(), found.joint)),
        "changes": (CHANGES, change_rows(_flat(found.changes))),
        "groups": (GROUPS, group_rows(_flat(found.groups))),
    }
    files = {}
    for name, (header, rows) in tables.items():
        if rows or name in ("table", "points"):
            files[f"{name}.csv"] = as_csv(header, rows)
            files[f"{name}.parquet"] = as_parquet(header, rows)
    return files


def _flat(by_task: Mapping[str, Sequence[_T]]) -> list[_T]:
    return [item for several in by_task.values() for item in several]


def _rival_differences(found: Findings) -> list[Difference]:
    return [item.difference for item in _flat(found.rivals) if item.difference is not None]
