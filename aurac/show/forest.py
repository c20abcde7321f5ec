"""Differences with their intervals: a panel for each task, a row for each two curves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aurac.analysis.rows import grouped
from aurac.curves.display import interval
from aurac.show import figures
from aurac.show.appearance import AXIS, INK, PAPER, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.stats.mean import Estimate

WIDE = 6.75  # inches: as wide as a page of a paper
_SMALL = 6.5  # points
_PANEL = 0.2  # of the width: the least that marks and intervals get
_NAMES = 0.385  # of the width: where a longer name takes two lines
_LOOK: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 2.8, "color": SERIES[0]}


class Difference(NamedTuple):
    """One difference of AURAC, a fraction."""

    task: str
    name: str
    estimate: Estimate
    significant: bool


def differences(rows: Sequence[Difference], *, width: float = WIDE) -> Figure:
    """Panels with a scale of their own, one below the other; numbers beside rows where they fit."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row._replace(name=_on_lines(row.name, width)) for row in rows]
    tasks = grouped(rows, lambda row: row.task)
    edges = [
        np.cumsum([0.0, *(0.16 + 0.1 * row.name.count("\n") for row in part)])  # inches
        for part in tasks.values()
    ]
    heights = [each[-1] + 0.3 for each in edges]
    figure = Figure(figsize=(width, sum(heights) + 0.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, hspace=0)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(len(tasks), squeeze=False, gridspec_kw={"height_ratios": heights})
    texts = (
        [line for row in rows for line in row.name.split("\n")],
        [interval(row.estimate) for row in rows],
    )
    taken = sum(figures.text_width(each, _SMALL) for each in texts)
    numbers = taken <= (1 - _PANEL) * 72 * width
    for ax, (task, part), each in zip(panels.flat, tasks.items(), edges, strict=True):
        _panel(ax, part, each, numbers=numbers)
        ax.set_title(task, fontsize=8)
    figure.supxlabel("Difference in AURAC (points)", x=0.99, ha="right", fontsize=8)
    keys = [
        Line2D([], [], label="adjusted p < .05", **_LOOK),
        Line2D([], [], label="not significant", markerfacecolor=PAPER, **_LOOK),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=2)
    return figure


def _on_lines(name: str, width: float) -> str:
    """A method, or the end of its name, that both have once; two lines where the name is long."""
    name, same = re.subn(r"^(.+) \((.+)\) − \1 \((.+)\)$", r"\1: \2 − \3", name)
    cut = r"( \([^)]+\))?"
    name = re.sub(rf"^(\S+) (\S.*?){cut} − (\S+) \2{cut}$", r"\1\3 − \4\5, both \2", name)
    if figures.text_width([name], _SMALL) <= _NAMES * 72 * width:
        return name
    return name.replace(": ", ":\n") if same else name.replace(" − ", "\n− ")


def _panel(ax: Axes, rows: Sequence[Difference], edges: np.ndarray, *, numbers: bool) -> None:
    from matplotlib.ticker import AutoMinorLocator

    places = (edges[1:] + edges[:-1]) / 2
    for at, (_, _, shown, significant) in zip(places, rows, strict=True):
        if shown.low is not None and shown.high is not None:
            ends = 100 * np.array([[shown.value - shown.low], [shown.high - shown.value]])
            ax.errorbar(
                100 * shown.value, at, xerr=ends, ecolor=SERIES[0], linewidth=1.1, capsize=2
            )
        face = SERIES[0] if significant else PAPER
        ax.plot(100 * shown.value, at, zorder=3, markerfacecolor=face, **_LOOK)
        beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center"}
        if numbers:
            ax.annotate(interval(shown), (1.03, at), fontsize=_SMALL, color=INK, **beside)
    ax.axvline(0, color=AXIS, linewidth=0.8, zorder=1)
    ax.set_yticks(places, [row.name for row in rows], linespacing=1.0)
    ax.set_ylim(edges[-1], 0)
    ax.locator_params(axis="x", nbins=4, steps=[1, 2, 2.5, 5, 10])
    ax.xaxis.set_minor_locator(AutoMinorLocator(2))
    ax.grid(visible=True)
    ax.tick_params(labelsize=_SMALL)
    ax.tick_params(axis="x", which="minor", length=2)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
