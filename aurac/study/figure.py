"""One figure of a study: every difference of AURAC with its interval, task by task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aurac.report import figures
from aurac.report.appearance import AXIS, PAPER, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from aurac.stats.rows import Analysis, PairRow

DIFFERENCES = "differences"
_ROW = 0.21  # inches


def draw_differences(analysis: Analysis, tasks: Sequence[str], out: Path) -> None:
    """Write `differences.svg` and `.png`; nothing where no two curves were compared.

    Args:
        analysis: Of the study. Its pairs of methods and its pairs of truncations are drawn.
        tasks: In the order of the figure.
        out: Folder of the files.
    """
    every = [*analysis.pairs, *analysis.variants]
    rows = [row for task in tasks for row in every if row.task == task and row.result]
    if not rows:
        return
    names = [_name(row) for row in rows]
    with figures.styled():
        figure = figures.single(
            partial(_draw, rows=rows, names=names),
            title="AURAC, log2 axis: difference in points (filled: adjusted p < .05)",
            left=names,
            height=_ROW * (len(rows) + len(tasks)) + 1.0,
        )
        figures.save(figure, out / DIFFERENCES)


def _name(row: PairRow) -> str:
    """`b − a`; two truncations of one adapter without naming it twice."""
    (a, _, first), (b, _, second) = (side.partition(" · ") for side in (row.a, row.b))
    return f"{a}: {second} − {first}" if a == b else f"{row.b} − {row.a}"


def _draw(ax: Axes, *, rows: Sequence[PairRow], names: Sequence[str]) -> Axes:
    tasks: dict[str, int] = {}
    places, place = [], 0
    for row in rows:
        task = str(row.task)
        if task not in tasks:  # a line with the task's name above its rows
            tasks[task], place = place, place + 1
        places.append(place)
        place += 1
    colours = dict(zip(tasks, SERIES * len(tasks), strict=False))
    for row, at in zip(rows, places, strict=True):
        estimate = row.result.estimate if row.result else None
        if estimate is None:
            continue
        colour = colours[str(row.task)]
        face = colour if row.p_holm is not None and row.p_holm < 1 - estimate.level else PAPER
        if estimate.low is not None and estimate.high is not None:
            ax.hlines(at, 100 * estimate.low, 100 * estimate.high, color=colour, linewidth=1.2)
        ax.plot(100 * estimate.value, at, marker="o", color=colour, markerfacecolor=face)
    ax.axvline(0, color=AXIS, linewidth=0.8)
    ax.set_yticks([*places, *tasks.values()], [*names, *tasks])
    for label in ax.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    ax.set_ylim(place - 0.5, -0.6)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return ax
