"""The closing table of the command line; plain text wherever the output is no terminal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from aurac.report.escape import one_line
from aurac.report.model import CurveRow, Run, as_run, ordered
from aurac.report.units import interval, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from aurac.runs.schema import Results

_MAX_ROWS = 40
_RANK_WIDTH = 7
_FIXED_WIDTH = 24  # the score column and the gaps


def terminal_table(results: Results, width: int | None = None) -> Table:
    """The AURAC of every curve, with the accuracy at each rank where there is room.

    Args:
        results: The file.
        width: Characters in a line; that of the terminal (80 when there is none) by default.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    run = as_run(results)
    width = width or shutil.get_terminal_size((80, 24)).columns
    rows = [curve for task in run.task_names for curve in ordered(run.of_task(task))]
    shown = rows[:_MAX_ROWS]
    several = len(run.task_names) > 1
    ranks = _rank_columns(run, shown, width, several=several)
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = Text("Accuracy and AURAC in percent, largest AURAC first", style="bold")
    table.caption = Text(_caption(run, len(rows) - len(shown)))
    for name in [*(["task"] if several else []), "adapter", "inference"]:
        table.add_column(name, overflow="fold")
    for rank in ranks:
        table.add_column(f"r={rank}" if rank else "base", justify="right", no_wrap=True)
    table.add_column("AURAC log2 [95 %]", justify="right", no_wrap=width >= 60)
    best = {task: _best(run, task) for task in run.task_names}
    for curve in shown:
        names = [curve.task] if several else []
        names += [curve.adapter, _inference(curve)]
        cells = [Text(one_line(name)) for name in names]
        cells += [Text(percent(_at(curve, rank))) for rank in ranks]
        leads = curve is best[curve.task]
        cells.append(Text(interval(curve.log2), style="bold" if leads else ""))
        table.add_row(*cells)
    return table


def _rank_columns(
    run: Run, shown: Sequence[CurveRow], width: int, *, several: bool
) -> tuple[int, ...]:
    ranks = sorted({rank for curve in shown for rank in curve.ranks})
    if any(curve.baseline is not None for curve in run.curves):
        ranks = [0, *ranks]
    names = max((len(one_line(c.adapter)) + len(_inference(c)) for c in shown), default=0)
    if several:
        names += max((len(one_line(c.task)) for c in shown), default=0) + 2
    fitting = min(len(ranks), max(0, (width - names - _FIXED_WIDTH) // _RANK_WIDTH))
    if fitting == len(ranks):
        return tuple(ranks)
    if fitting < 2:
        return ()
    last = len(ranks) - 1
    return tuple(ranks[round(i * last / (fitting - 1))] for i in range(fitting))


def _inference(curve: CurveRow) -> str:
    return one_line(f"{curve.basis}/{curve.rescale}{'*' if curve.role == 'published' else ''}")


def _at(curve: CurveRow, rank: int) -> float | None:
    if rank == 0:
        return curve.baseline
    return dict(zip(curve.ranks, curve.accuracy, strict=True)).get(rank)


def _best(run: Run, task: str) -> CurveRow | None:
    return next((c for c in ordered(run.of_task(task)) if c.is_default and c.log2), None)


def _missing(run: Run) -> int:
    """Cells without a result: those of curves, and of the base; a group's are its members'."""
    groups = {task.name for task in run.tasks if task.members}
    holes = {(c.id, c.task, r) for c in run.curves if c.task not in groups for r in c.missing}
    base = {failure.task for failure in run.failures if failure.rank == 0}
    return len(holes) + len(base)


def _caption(run: Run, left: int) -> str:
    metrics = ", ".join(dict.fromkeys(one_line(curve.metric) for curve in run.curves))
    counts = sorted({curve.n_docs for curve in run.curves if curve.n_docs})
    documents = "–".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]])) if counts else "?"
    missing = _missing(run)
    parts = [f"metric {metrics}", f"{documents} documents"]
    parts += ["* published inference"] if any(c.role == "published" for c in run.curves) else []
    parts += [f"{missing} cells missing"] if missing else []
    parts += [f"{left} more rows in table.csv"] if left > 0 else []
    return "; ".join(parts)
