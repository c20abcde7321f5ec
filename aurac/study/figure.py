"""One figure of a study: every difference of AURAC with its interval, task by task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aurac.show import figures
from aurac.show.appearance import AXIS, PAPER, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import PairRow
    from aurac.stats.mean import Estimate

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
    rows = [
        (task, _name(row), row.estimate, row.p_holm)
        for task in tasks
        for row in every
        if row.task == task and row.estimate
    ]
    if not rows:
        return
    with figures.styled():
        figure = figures.single(
            partial(_draw, rows=rows),
            title="AURAC, log2 axis: difference in points (filled: adjusted p < .05)",
            left=[name for _, name, _, _ in rows],
            height=_ROW * (len(rows) + len(tasks)) + 1.0,
        )
        figures.save(figure, out / DIFFERENCES)


def _name(row: PairRow) -> str:
    """`b − a`; two truncations of one adapter without naming it twice."""
    (a, _, first), (b, _, second) = (side.partition(" · ") for side in (row.a, row.b))
    return f"{a}: {second} − {first}" if a == b else f"{row.b} − {row.a}"


def _draw(ax: Axes, *, rows: Sequence[tuple[str, str, Estimate, float | None]]) -> Axes:
    """Rows of task, name, difference and adjusted p value; a line with its name begins a task."""
    tasks: dict[str, int] = {}
    places: dict[int, str] = {}
    for task, name, estimate, p in rows:
        tasks.setdefault(task, len(tasks) + len(places))
        at = len(tasks) + len(places)
        places[at] = name
        colour = SERIES[(len(tasks) - 1) % len(SERIES)]
        face = colour if p is not None and p < 1 - estimate.level else PAPER
        if estimate.low is not None and estimate.high is not None:
            ax.hlines(at, 100 * estimate.low, 100 * estimate.high, color=colour, linewidth=1.2)
        ax.plot(100 * estimate.value, at, marker="o", color=colour, markerfacecolor=face)
    ax.axvline(0, color=AXIS, linewidth=0.8)
    ax.set_yticks([*places, *tasks.values()], [*places.values(), *tasks])
    for label in ax.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    ax.set_ylim(len(places) + len(tasks) - 0.5, -0.6)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return ax
