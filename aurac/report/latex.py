"""Tables for a paper: booktabs, one for each task, to be read by an input command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.report.escape import latex, one_line
from aurac.report.tables import NONE, ordered, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.report.model import CurveRow, Interval, Run

_NAME = 40  # characters of an adapter's name that a column holds
_HEAD = (
    "% Made by aurac from results.json. Needs \\usepackage{booktabs} and, for pdfLaTeX,\n"
    "% \\usepackage[T1]{fontenc} and \\usepackage{textcomp}."
)


def render(run: Run, most: int = 40) -> str:
    """The AURAC tables of a run as LaTeX.

    Args:
        run: What was measured.
        most: Rows of a table at most, the largest AURACs first.
    """
    return "\n\n".join([_HEAD, *(_table(run, task, most) for task in run.task_names)]) + "\n"


def _table(run: Run, task: str, most: int) -> str:
    every = run.of_task(task)
    curves = ordered(every)[:most]
    best = max((c.log2.value for c in curves if c.log2 and c.is_default), default=None)
    metric = ", ".join(dict.fromkeys(curve.metric for curve in curves))
    left = f" The {len(every) - most} lowest rows are left out." if len(every) > most else ""
    lines = [
        r"\begin{table}",
        r"\centering",
        (
            rf"\caption{{AURAC on {latex(task)} in percent with 95\,\% intervals; integrated "
            rf"metric {latex(metric)}.{left}}}"
        ),
        r"\begin{tabular}{@{}lllrrr@{}}",
        r"\toprule",
        r"adapter & inference & ranks & log2 & linear & mean \\",
        r"\midrule",
        *[_row(curve, best) for curve in curves],
        *_baseline(curves),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(curve: CurveRow, best: float | None) -> str:
    inference = f"{curve.basis}, {curve.rescale}"
    if curve.role == "published":
        inference += " (published)"
    ranks = f"{curve.ranks[0]}--{curve.ranks[-1]}" if len(curve.ranks) > 1 else "--"
    area = _interval(curve.log2)
    if curve.is_default and curve.log2 and curve.log2.value == best:
        area = rf"\textbf{{{percent(curve.log2.value)}}}{area[len(percent(curve.log2.value)) :]}"
    cells = (
        latex(one_line(curve.adapter, _NAME)),
        latex(inference),
        ranks,
        area,
        _interval(curve.linear),
    )
    return f"{' & '.join(cells)} & {_dash(percent(curve.mean))} \\\\"


def _interval(area: Interval | None) -> str:
    if area is None:
        return "--"
    if area.low is None or area.high is None:
        return percent(area.value)
    return rf"{percent(area.value)} {{\small[{percent(area.low)}, {percent(area.high)}]}}"


def _dash(text: str) -> str:
    return "--" if text == NONE else text


def _baseline(curves: Sequence[CurveRow]) -> list[str]:
    values = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
    if len(values) != 1:
        return []
    return [
        r"\midrule",
        rf"base model & \multicolumn{{5}}{{l}}{{{percent(next(iter(values)))} at rank 0}} \\",
    ]
