"""Differences with their intervals: a panel for each task, a row for each two curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from aurac.show import figures
from aurac.show.appearance import AXIS, INK, LABEL_SIZE, PAPER, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.stats.mean import Estimate

WIDE = 6.75  # inches: as wide as a page of a paper
_ENDS = 0.45  # inches of title and ticks


class Difference(NamedTuple):
    """One difference of AURAC, a fraction."""

    task: str
    name: str
    estimate: Estimate
    significant: bool


def differences(rows: Sequence[Difference], *, width: float = WIDE) -> Figure:
    """Panels with a scale of their own, three in a row; in a column one below the other."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    narrow = width <= figures.NARROW
    across, row_height = (1, 0.225) if narrow else (3, 0.19)  # inches
    if narrow:  # a name on two lines
        rows = [row._replace(name=row.name.replace(" − ", "\n− ")) for row in rows]
    tasks = list(dict.fromkeys(row.task for row in rows))
    lines = [tasks[at : at + across] for at in range(0, len(tasks), across)]
    parts = [[row for row in rows if row.task in some] for some in lines]
    names = [list(dict.fromkeys(row.name for row in part)) for part in parts]
    heights = [row_height * len(each) + _ENDS for each in names]
    figure = Figure(figsize=(width, sum(heights) + 0.45), layout="constrained")
    panels = figure.subplots(
        len(parts),
        min(across, len(tasks)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for line, shown, part, listed in zip(panels, lines, parts, names, strict=True):
        for ax, task in zip(line, shown, strict=False):
            _panel(ax, [row for row in part if row.task == task], listed)
            ax.set_title(task, fontsize=LABEL_SIZE, loc="right")
            ax.tick_params(axis="y", labelleft=ax is line[0], labelsize=6.5 if narrow else 8)
            for name in ax.get_yticklabels():
                name.set_linespacing(1.0)
        for ax in line[len(shown) :]:
            ax.remove()
    figure.supxlabel("Difference in AURAC (points)", x=0.99, ha="right", fontsize=LABEL_SIZE)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": SERIES[0]}
    keys = [
        Line2D([], [], label="adjusted p < .05", **look),
        Line2D([], [], label="not significant", markerfacecolor=PAPER, **look),
    ]
    figure.legend(handles=keys, loc="outside upper right", ncols=2)
    return figure


def _panel(ax: Axes, rows: Sequence[Difference], names: Sequence[str]) -> None:
    for row in rows:
        at, shown = names.index(row.name), row.estimate
        if shown.low is not None and shown.high is not None:
            ax.hlines(at, 100 * shown.low, 100 * shown.high, color=SERIES[0], linewidth=1.2)
        face = SERIES[0] if row.significant else PAPER
        ax.plot(100 * shown.value, at, marker="o", color=SERIES[0], markerfacecolor=face)
    ax.axvline(0, color=AXIS, linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(visible=True)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
