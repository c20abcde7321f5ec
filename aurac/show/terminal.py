"""The tables of the command line, made of the rows of an analysis or of stored results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aurac.analysis.rows import ScoreRow
from aurac.analysis.sentences import DEPENDS
from aurac.curves.area import BUDGETS, area_name, axis_title
from aurac.curves.display import percent, show_span
from aurac.records.run import stored_run
from aurac.show.pairs import pair_cells
from aurac.show.table import NONE, Cell, Column, Table, estimate, number, share, table
from aurac.show.tables import margin_cell
from aurac.stats.mean import Estimate
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.console import Group

    from aurac.analysis.choice_rows import Choice, RankTest
    from aurac.analysis.rows import AggregateRow, PairRow
    from aurac.curves.area import Span
    from aurac.records.results_file import Results
    from aurac.records.run import CurveRow

_Column = tuple[Column, Callable[["ScoreRow"], Cell]]
TITLE = "Accuracy and AURAC in percent, largest AURAC first"
_MAX_ROWS = 40


def terminal_table(
    results: Results, width: int | None = None, best: Collection[tuple[str | None, str]] = ()
) -> Group:
    """The AURAC of every curve, with the accuracy at each rank where there is room.

    Args:
        results: Of a run.
        width: Characters in a line: by default the terminal's, 80 without one.
        best: Task and name (`Analysis.candidates`) of the curves that are set in bold.
    """
    curves = stored_run(results).curves
    rows = [_stored_row(curve) for curve in curves]
    groups = {task.name for task in results.tasks if task.members}  # their cells are the members'
    holes = {(r.label, r.task, rank) for r in rows if r.task not in groups for rank in r.missing}
    missing = len(holes) + len({failure.task for failure in results.failures if failure.rank == 0})
    shown = curve_table(
        rows,
        best={(curve.task, curve.label) for curve in curves if (curve.task, curve.name) in best},
        most=_MAX_ROWS,
        rest="more rows in table.csv",
        notes=[f"{missing} cells missing"] if missing else [],
    )
    return shown.terminal(width or shutil.get_terminal_size((80, 24)).columns, TITLE)


def _stored_row(curve: CurveRow) -> ScoreRow:
    """A stored curve as a row of an analysis."""
    area, method = curve.log2, curve.score_method or "not recorded"
    return ScoreRow(
        adapter=curve.label,
        task=curve.task,
        metric=curve.metric,
        truncation="",
        other=False,
        ranks=curve.ranks,
        accuracy=curve.accuracy,
        n_docs=curve.n_docs,
        seeds=1,
        baseline=curve.baseline,
        missing=curve.missing,
        log2=Estimate(area.value, area.se, area.low, area.high, method) if area else None,
        published=curve.role == "published",
    )


def curve_table(
    rows: Sequence[ScoreRow],
    *,
    axis: str = "log2",
    level: float = 0.95,
    best: Collection[tuple[str | None, str]] = (),
    linear: bool = False,
    marked: bool = False,
    most: int = 60,
    rest: str = "more rows: see --json",
    notes: Iterable[str] = (),
) -> Table:
    """A row for each curve, for `Table.terminal`: the accuracy at each rank, and AURAC.

    Args:
        rows: `Analysis.scores`, or rows of stored results.
        axis: Of the analysis.
        level: Of its intervals.
        best: Task and label of the rows in bold (`Analysis.candidates`).
        linear: Whether AURAC over the linear axis has a column.
        marked: Whether intervals that few documents decide are marked, as in reports.
        most: How many rows are shown, those with the largest AURAC of each task.
        rest: What follows the number of rows that are left out.
        notes: Ends of the caption.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))

    def place(row: ScoreRow) -> tuple[int, float, bool, str]:
        area = row.headline
        value = -round(area.value, 12) if area else 1.0
        return tasks.index(row.task), value, row.other if area else False, row.label if area else ""

    shown = sorted(rows, key=place)[:most]
    columns = [*_name_columns(rows, axis)]
    if linear:
        column = Column("AURAC linear [95 %]", numeric=True)
        columns.append((column, lambda row: estimate(row.linear, marked=marked)))
    columns += _rank_columns(shown)
    if any(row.headline for row in shown):
        column = Column(f"{axis_title(axis)} [{100 * level:g} %]", numeric=True)

        def area(row: ScoreRow) -> Cell:
            return estimate(row.headline, best=(row.task, row.label) in best, marked=marked)

        columns.append((column, area))
    left = [f"{len(rows) - most} {rest}"] if len(rows) > most else []
    caption = one_line("; ".join([*_about(rows), *notes, *left]))
    body = tuple(tuple(cell(row) for _, cell in columns) for row in shown)
    return Table("curves", caption, tuple(column for column, _ in columns), body)


def _column(title: str, text: Callable[[ScoreRow], str], *, numeric: bool = False) -> _Column:
    return Column(title, numeric), lambda row: Cell(one_line(text(row)))


def _name_columns(rows: Sequence[ScoreRow], axis: str) -> list[_Column]:
    """What tells the rows apart; nothing that all have alike."""
    several = any(row.seeds > 1 for row in rows)
    every = [
        (len({row.task for row in rows}) > 1, _column("task", lambda row: row.task or NONE)),
        (True, _column("adapter", lambda row: row.label + "*" * row.published)),
        (several, _column("seeds", lambda row: str(row.seeds), numeric=True)),
        (axis in BUDGETS, _column(axis, lambda row: _over(axis, row.span)[axis], numeric=True)),
    ]
    return [column for wanted, column in every if wanted]


def _rank_columns(rows: Sequence[ScoreRow]) -> list[_Column]:
    """A column for each rank, the base first where it is known."""
    every = {rank for row in rows for rank in (*row.ranks, *row.missing)}
    every |= {0 for row in rows if row.baseline is not None}
    titles = ((rank, f"r={rank}" if rank else "base") for rank in sorted(every))
    return [(Column(title, numeric=True), partial(_accuracy, rank)) for rank, title in titles]


def _accuracy(rank: int, row: ScoreRow) -> Cell:
    known = dict(zip(row.ranks, row.accuracy, strict=True))
    return share(known.get(rank) if rank else row.baseline)


def _over(axis: str, span: Span | None) -> dict[str, str]:
    """The amounts that an area is over, of a budget."""
    if axis not in BUDGETS:
        return {}
    return {axis: NONE if span is None else show_span(span, axis)}


def _about(rows: Sequence[ScoreRow]) -> list[str]:
    """Metric, documents, and what the star of published truncations means."""
    metrics = dict.fromkeys(row.metric for row in rows if row.metric)
    counts = sorted({row.n_docs for row in rows if row.n_docs})
    parts = [f"metric {', '.join(metrics)}"] if metrics else []
    if counts:
        low = f"{counts[0]}–" if counts[1:] else ""
        parts.append(f"{low}{counts[-1]} document{'' if counts == [1] else 's'}")
    return parts + (["* as published"] if any(row.published for row in rows) else [])


def pair_table(
    rows: Sequence[PairRow], *, details: bool = False, short: bool = False, marked: bool = False
) -> Table:
    """Paired differences in points.

    Args:
        rows: The pairs.
        details: Whether the documents gained and lost at each rank are in it.
        short: Whether the better one is only named, with a mark where that depends on the
            truncation.
        marked: As of `curve_table`.
    """
    several = len({row.task for row in rows}) > 1
    axis, body = rows[0].axis, []
    for row in rows:
        reading = row.reading
        if short:  # a line below says which are exploratory
            reading = reading.replace(" is better", "").replace(", exploratory", "")
            reading = reading.replace(DEPENDS, " §")
        cells = [Cell(f"{row.b} − {row.a}"), *([Cell(row.task or NONE)] if several else [])]
        cells += [
            *pair_cells(row, marked=marked),
            *map(Cell, _over(row.axis, row.span).values()),
            Cell(reading),
        ]
        if details:
            gains = zip(row.ranks, row.gained or (), row.lost or (), strict=False)
            cells.append(Cell(" ".join(f"{r}:+{g}/−{x}" for r, g, x in gains)))
        body.append(cells)
    level = next((row.estimate.level for row in rows if row.estimate), 0.95)
    head = ["difference", *(["task"] if several else []), f"points [{100 * level:g} %]", "p (Holm)"]
    head += ["detectable", *_over(axis, None), "reading"]
    return table("pairs", "", body, *head, *(["gained/lost at each rank"] if details else []))


def aggregate_table(
    rows: Sequence[AggregateRow], *, details: bool = False, marked: bool = False
) -> Table:
    """One number for all tasks; why there is none, and with `details` how its interval was made."""
    reasons = [
        (row.estimate.method if details else "") if row.estimate else f"no aggregate: {row.reason}"
        for row in rows
    ]
    level = next((row.estimate.level for row in rows if row.estimate), 0.95)
    head = ["all tasks", f"{area_name(rows[0].axis)} (%) or points [{100 * level:g} %]"]
    body = [
        [
            Cell(row.a if row.b is None else f"{row.b} − {row.a}"),
            estimate(row.estimate, marked=marked),
        ]
        for row in rows
    ]
    if any(reasons):
        head.append("how")
        body = [[*cells, Cell(why)] for cells, why in zip(body, reasons, strict=True)]
    return table("aggregates", "", body, *head)


def rank_test_table(tests: Iterable[RankTest], choice: Choice) -> Table:
    """What was tested of each rank of a curve, in points."""
    rows = [
        (
            number(test.rank),
            share(test.loss),
            Cell(percent(test.upper, 2), test.upper),
            Cell(NONE if choice.margin is None else "yes" if test.passed else "no"),
            Cell(f"{percent(test.flip_rate)} %", test.flip_rate),
            margin_cell(test.margin_needed),
        )
        for test in tests
    ]
    passes = "within margin" if choice.min_accuracy is None else "passes"
    titles = ("rank", "loss", "upper bound", passes, "documents that change")
    return table("tests", "", rows, *titles, "needed by itself").filled()
