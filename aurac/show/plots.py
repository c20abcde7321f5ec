"""Curves, sizes, and documents gained and lost, drawn on the Axes that are passed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import BUDGETS, axis_title
from aurac.curves.display import counted, percent
from aurac.show.appearance import (
    AXIS,
    BASE,
    BASE_LOOK,
    INK,
    LABEL_CHARS,
    PAPER,
    REST,
    area_labels,
    baselines,
    beside,
    end_labels,
    horizontal_axis,
    key,
    log_ticks,
    parameter_axis,
    percent_axis,
    short_names,
    styles,
)
from aurac.show.findings import ordered
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from aurac.analysis.record import Changes, Step, StratumRow
    from aurac.records.results_file import Area
    from aurac.records.run import CurveRow
    from aurac.records.serving import ServingRecord
    from aurac.show.appearance import Style, Styles
    from aurac.show.documents import Served
    from aurac.stats.mean import Estimate

_MAX_BANDS = 3
_MAX_MARKS = 16
MERGED = "merged, any rank"
RING = "recommended"
NAN = float("nan")


def rank_accuracy(
    ax: Axes,
    curves: Sequence[CurveRow],
    *,
    axis: str = "log2",
    style: Styles | None = None,
    highlight: Collection[str] | None = None,
    areas: Mapping[str, Area | Estimate] | None = None,
    ringed: Mapping[str, int] | None = None,
    seeds: bool = False,
    labels: bool = True,
    left: int = 0,
) -> Axes:
    """Accuracy in percent against rank or size, with pointwise bands and a dashed line, the base.

    A curve over several training seeds is drawn as their mean. `banded` says which have a band.

    Args:
        ax: Where to draw.
        curves: Of one task.
        axis: "log2" or "linear" of the rank, "parameters" or "bytes".
        style: Styles that other figures share.
        highlight: Ids of the curves in colour, the rest is thin and grey.
        areas: Id of a curve → its AURAC over a budget.
        ringed: Id of a curve → its recommended rank, which gets a ring.
        seeds: Whether the training seeds are drawn, thin, beneath their mean.
        labels: Whether the lines are named at the right edge, with their AURAC.
        left: How many curves are not drawn.
    """
    style = style or styles(curves)
    coloured = [c for c in curves if c.ranks and (highlight is None or c.id in highlight)]
    rest = [c for c in curves if c.ranks and c not in coloured]
    bands, names = banded(coloured), short_names(coloured)
    for at, curve in enumerate(coloured):
        look, name = style[key(curve)], f"curve-{at}"
        if curve in bands:
            _band(ax, curve, look.colour, f"{name}-band", axis)
        if seeds and (thin := _thin(ax, curve.members, look.colour, 2.5, axis)):
            thin.set(alpha=0.55, gid=f"{name}-seeds")
        _line(ax, curve, look, name, axis).set_label(names[curve.label])
    for at, curve in enumerate(coloured):
        if ringed and ringed.get(curve.id) in curve.ranks:
            _ring(ax, curve, style[key(curve)], ringed[curve.id], f"curve-{at}-ring", axis)
    if grey := _thin(ax, rest, REST, 1, axis):
        grey.set(gid="rest", label=counted(len(rest), "more curve"))
    horizontal_axis(ax, {r for curve in curves for r in (*curve.ranks, *curve.missing)}, axis)
    members = [seed for curve in coloured for seed in curve.members] if seeds else []
    percent_axis(ax, [*curves, *members], bands)
    bases = baselines(curves)
    for name, value in bases.items():
        line = ax.axhline(100 * value, zorder=1.5, gid="base", **BASE_LOOK)
        line.set_label(one_line(name, LABEL_CHARS))
    if labels:
        lines = [(c, along(c, axis), c.accuracy) for c in coloured]
        _name_lines(ax, lines, style, axis, areas, bases)
    _count_others(ax, len(rest), left, labels=labels)
    return ax


def _count_others(ax: Axes, rest: int, left: int, *, labels: bool) -> None:
    """How many curves are grey or not drawn, beside the axes or in a legend."""
    parts = [f"grey: {rest} more"] * bool(rest) + [f"{left} not drawn"] * bool(left)
    if labels and parts:
        beside(ax, "; ".join(parts), 0, -24)
    elif left:
        ax.plot([], [], " ", label=f"{counted(left, 'more curve')} not drawn")


def _line(ax: Axes, curve: CurveRow, look: Style, gid: str, axis: str) -> Line2D:
    """A curve with its marks."""
    places, shares = _points(curve, axis)
    (line,) = ax.plot(places, shares, zorder=3, gid=gid, **look.options)
    shown, ranks = marked(curve), zip(along(curve, axis), curve.ranks, strict=True)
    marks = {place for place, rank in ranks if rank in shown}
    line.set_markevery([i for i, place in enumerate(places) if place in marks])
    return line


def banded(coloured: Sequence[CurveRow]) -> list[CurveRow]:
    """The curves that get a band: the best of each adapter, of the three best adapters."""
    best: dict[str, CurveRow] = {}
    for curve in ordered(c for c in coloured if any(low is not None for low in c.accuracy_low)):
        best.setdefault(curve.adapter, curve)
    return [*best.values()][:_MAX_BANDS]


def marked(curve: CurveRow) -> list[int]:
    """The ranks with a mark: all, or powers of two and the ends where all would touch."""
    if len(curve.ranks) <= _MAX_MARKS:
        return list(curve.ranks)
    ends = (curve.ranks[0], curve.ranks[-1])
    return [rank for rank in curve.ranks if rank & (rank - 1) == 0 or rank in ends]


def along(curve: CurveRow, axis: str) -> Sequence[float]:
    """Where the ranks of a curve stand on an axis: millions of parameters, MB, or the ranks."""
    if axis not in BUDGETS:
        return curve.ranks
    each = curve.parameters if axis == "parameters" else curve.bytes
    return [NAN if amount is None else amount / 1e6 for amount in each]


def _thin(
    ax: Axes, curves: Sequence[CurveRow], colour: str, order: float, axis: str
) -> Line2D | None:
    """Thin lines, all in one artist: a hundred of them stay a small file."""
    each = (zip(*_points(curve, axis), strict=True) for curve in curves)
    points = [point for line in each for point in (*line, (NAN, NAN))]
    if not points:
        return None
    (line,) = ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, zorder=order)
    return line


def _ring(ax: Axes, curve: CurveRow, look: Style, rank: int, gid: str, axis: str) -> None:
    from matplotlib import rcParams

    at = curve.ranks.index(rank)
    place, height = along(curve, axis)[at], 100 * curve.accuracy[at]
    (ring,) = ax.plot([place], [height], "o", markerfacecolor="none", markeredgecolor=look.colour)
    ring.set_label(RING)
    ring.set(markersize=2.4 * rcParams["lines.markersize"], markeredgewidth=1.6, zorder=4, gid=gid)


def _points(curve: CurveRow, axis: str) -> tuple[list[float], list[float]]:
    """Places and percent, with a hole (nan) at every rank that is missing."""
    known = dict(zip(along(curve, axis), curve.accuracy, strict=True))
    places = sorted({*known, *(curve.missing if axis not in BUDGETS else ())})
    return places, [100 * known.get(place, NAN) for place in places]


def _band(ax: Axes, curve: CurveRow, colour: str, gid: str, axis: str) -> None:
    """The pointwise intervals as a band with an edge, with holes at missing ranks."""
    ends = zip(curve.accuracy_low, curve.accuracy_high, strict=True)
    bounds = dict(zip(along(curve, axis), ends, strict=True))
    bounds |= dict.fromkeys(curve.missing if axis not in BUDGETS else (), (None, None))
    places = sorted(bounds)
    lows, highs = 100 * np.array([bounds[place] for place in places], dtype=float).T
    band = ax.fill_between(places, lows, highs, linewidth=0.7, zorder=2, gid=gid)
    band.set(facecolor=(colour, 0.08), edgecolor=(colour, 0.5))


Line = tuple["CurveRow", "Sequence[float]", "Sequence[float]"]
"""A curve, the places of its ranks along an axis, and its accuracies there."""


def _draw_lines(ax: Axes, lines: Sequence[Line], style: Styles) -> None:
    """Lines with a mark at each rank, and the scale of accuracy."""
    names = short_names(curve for curve, *_ in lines)
    for at, (curve, places, accuracy) in enumerate(lines):
        shares, look = [100 * value for value in accuracy], style[key(curve)].options
        ax.plot(places, shares, label=names[curve.label], gid=f"curve-{at}", **look)
    percent_axis(ax, [curve for curve, *_ in lines], (), base=False)


def _name_lines(
    ax: Axes,
    lines: Sequence[Line],
    style: Styles,
    axis: str = "log2",
    areas: Mapping[str, Area | Estimate] | None = None,
    bases: Mapping[str, float] | None = None,
) -> None:
    """Names at the right edge: of curves with their AURAC over the axis, and of base lines."""
    curves, bases = [curve for curve, *_ in lines], bases or {}
    names, called = short_names(curves), area_labels(curves, areas, axis)
    ends: list[tuple[str, float, float | None]] = [
        (called[names[curve.label]], 100 * accuracy[-1], places[-1])
        for curve, places, accuracy in lines
    ]
    ends += [(one_line(name, LABEL_CHARS), 100 * v, None) for name, v in bases.items()]
    looks = [*(style[key(curve)].options for curve in curves), *[BASE_LOOK] * len(bases)]
    end_labels(ax, ends, looks, axis_title(axis))


def cost(
    ax: Axes, curves: Sequence[CurveRow], *, style: Styles | None = None, labels: bool = True
) -> Axes:
    """Accuracy in percent against the megabytes of an adapter at each rank."""
    style = style or styles(curves)
    drawn = [curve for curve in curves if curve.ranks and all(curve.bytes)]
    lines = [(c, [amount / 1e6 for amount in c.bytes if amount], c.accuracy) for c in drawn]
    _draw_lines(ax, lines, style)
    ax.set_xscale("log")
    log_ticks(ax)
    ax.set_xlabel("Adapter size (MB, log axis)")
    parameter_axis(ax, drawn)
    if labels:
        _name_lines(ax, lines, style)
    return ax


def latency(
    ax: Axes,
    record: ServingRecord,
    measured: Sequence[Served],
    *,
    style: Styles,
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against the milliseconds of a generated token, unmerged.

    The lines are named at the right edge where `labels` are wanted.
    """
    lines = [
        (s.curve, [1000 * cost.decode.median for cost, _ in s.points], [y for _, y in s.points])
        for s in measured
    ]
    _draw_lines(ax, lines, style)
    for served in measured:
        look, times = style[key(served.curve)], [cost.decode for cost, _ in served.points]
        lows = [1000 * (t.median if t.low is None else t.low) for t in times]
        highs = [1000 * (t.median if t.high is None else t.high) for t in times]
        shares = [100 * accuracy for _, accuracy in served.points]
        ax.hlines(shares, lows, highs, color=look.colour, linewidth=1, alpha=0.6)
        if hollow := [(1000 * cost.decode.median, 100 * y) for cost, y in served.unclear]:
            marks = {**look.options, "linestyle": "none", "markerfacecolor": PAPER}
            ax.plot(*zip(*hollow, strict=True), **marks, zorder=4)
    place = 1000 * record.merged.decode.median
    ax.axvline(place, zorder=1.5, label=MERGED, **BASE_LOOK)
    ax.set_xlabel("Time for a generated token (ms), unmerged")
    if labels:
        _name_lines(ax, lines, style)
        text: dict[str, Any] = {"va": "top", "fontsize": 8, "color": BASE}
        ax.text(place, 0.995, " merged", transform=ax.get_xaxis_transform(), **text)
    return ax


def counts(step: Step, changes: Changes, *, shares: bool) -> list[str]:
    """Documents gained and lost, or their shares of the curve's in percent."""
    both = (step.gained, step.lost)
    return [percent(number / changes.n_docs) if shares else str(number) for number in both]


def gained_lost(
    ax: Axes,
    changes: Changes,
    *,
    colour: str = INK,
    most: tuple[float, float] | None = None,
    shares: bool = False,
) -> Axes:
    """Documents gained (up) and lost (down) at each rank; panels share the scale `most`.

    `shares` of them in percent, which also compare between curves of 3 and of 5 seeds.
    """
    places = range(len(changes.steps))
    up = [step.gained / changes.n_docs for step in changes.steps]
    down = [-step.lost / changes.n_docs for step in changes.steps]
    ax.bar(places, up, width=0.62, color=colour, label="gained")
    ax.bar(places, down, width=0.62, facecolor=PAPER, edgecolor=colour, hatch="////", label="lost")
    ax.axhline(0, color=AXIS, linewidth=0.8)
    highest, lowest = most or (max(up), -min(down))
    top = max(highest, lowest, 1 / changes.n_docs)
    for place, step in enumerate(changes.steps):
        gained, lost = counts(step, changes, shares=shares)
        above, below = up[place] + 0.03 * top, down[place] - 0.03 * top
        ax.text(place, above, gained, ha="center", va="bottom", fontsize=8)
        ax.text(place, below, lost, ha="center", va="top", fontsize=8)
    ax.set_ylim(-lowest - 0.24 * top, max(highest, 0.1 * top) + 0.16 * top)
    ax.set_xticks(places, [f"{a}→{b}" for a, b in changes.pairs])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8)
    ax.set_title(changes.label, fontsize=min(10, 300 / max(len(changes.label), 1)))
    ax.set_ylabel("Documents (%)" if shares else "Documents", fontsize=8)
    return ax


def groups(
    ax: Axes,
    strata: Sequence[StratumRow],
    curves: Mapping[str, CurveRow],
    *,
    style: Styles,
) -> Axes:
    """The area on each group of documents as a dot with its interval, one row for each group.

    `curves` are the rows by the names that the strata have.
    """
    names, called = list(dict.fromkeys(row.stratum for row in strata)), short_names(curves.values())
    for at, (name, curve) in enumerate(curves.items()):
        look = style[key(curve)]
        shown = [row for row in strata if row.curve == name]
        shift = 0.6 * ((at + 0.5) / len(curves) - 0.5)
        places = [names.index(row.stratum) + shift for row in shown]
        ends = np.array([(row.log2.low, row.log2.high) for row in shown], dtype=float)
        ax.hlines(places, *100 * ends.T, color=look.colour, linewidth=1.0, alpha=0.6)
        values = [100 * row.log2.value for row in shown]
        (dots,) = ax.plot(values, places, label=called[curve.label], color=look.colour)
        dots.set(linestyle="none", marker=look.marker)
    ax.set_yticks(range(len(names)), [one_line(name, LABEL_CHARS) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AURAC, log2 axis (%)")
    if len(curves) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return ax
