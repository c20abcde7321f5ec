"""Curves, sizes, and documents gained and lost, drawn on the Axes that are passed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import BUDGETS, area_name
from aurac.show.appearance import (
    AXIS,
    BASE,
    BASE_LABEL,
    INK,
    LABEL_CHARS,
    LABEL_SIZE,
    PAPER,
    REST,
    end_labels,
    key,
    legend_label,
    styles,
)
from aurac.show.model import ordered
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from aurac.analysis.record import Changes, StratumRow
    from aurac.show.appearance import Style, Styles
    from aurac.show.model import CurveRow, Interval
    from aurac.stats.mean import Estimate

_MAX_BANDS = 4
_MAX_MARKS = 16
NAN = float("nan")


def rank_accuracy(
    ax: Axes,
    curves: Sequence[CurveRow],
    *,
    axis: str = "log2",
    style: Styles | None = None,
    highlight: Collection[str] | None = None,
    areas: Mapping[str, Interval | Estimate] | None = None,
    non_inferior: Mapping[str, int] | None = None,
    full: Collection[str] = (),
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against rank or size, with pointwise bands and a dashed line, the base.

    A curve over several training seeds is drawn as their mean, the seeds thin beneath it.

    Args:
        ax: Where to draw.
        curves: Of one task.
        axis: "log2" or "linear" of the rank, "parameters" or "bytes".
        style: Styles that other figures share.
        highlight: Ids of the curves in colour, the rest is thin and grey.
        areas: Id of a curve → its AURAC over a budget.
        non_inferior: Id of a curve → its smallest non-inferior rank, which gets a ring.
        full: Ids of the curves with a level line at the accuracy of their highest rank.
        labels: Whether the lines are named at the right edge, with their AURAC.
    """
    style = style or styles(curves)
    coloured = [c for c in curves if c.ranks and (highlight is None or c.id in highlight)]
    _thin(ax, [curve for curve in curves if curve.ranks and curve not in coloured], REST, 1, axis)
    with_band = banded(coloured)
    for at, curve in enumerate(coloured):
        look, name = style[key(curve)], f"curve-{at}"
        _line(ax, curve, look, name, axis).set_label(legend_label(curve, areas))
        if curve in with_band:
            _band(ax, curve, look.colour, f"{name}-band", axis)
        if curve.id in full:
            _level(ax, curve, look.colour, f"{name}-full", axis)
        if non_inferior and non_inferior.get(curve.id) in curve.ranks:
            _ring(ax, curve, look, non_inferior[curve.id], f"{name}-ring", axis)
    _horizontal_axis(ax, {r for curve in curves for r in (*curve.ranks, *curve.missing)}, axis)
    percent_axis(ax, curves, with_band)
    bases = baselines(curves)
    for value in bases.values():
        line = ax.axhline(100 * value, color=BASE, linestyle=(0, (6, 3)), linewidth=1, zorder=1.5)
        line.set_gid("base")
    if labels:
        names: list[tuple[str, float, float | None]] = [
            (legend_label(c, areas), 100 * c.accuracy[-1], along(c, axis)[-1]) for c in coloured
        ]
        names += [(one_line(name, LABEL_CHARS), 100 * v, None) for name, v in bases.items()]
        tints = [*(style[key(c)].colour for c in coloured), *[BASE] * len(bases)]
        end_labels(ax, names, tints, area_name(axis))
    return ax


def _line(ax: Axes, curve: CurveRow, look: Style, gid: str, axis: str) -> Line2D:
    """A curve with its marks, over the thin lines of its seeds."""
    if curve.members and (seeds := _thin(ax, curve.members, look.colour, 2.5, axis)):
        seeds.set(alpha=0.55, gid=f"{gid}-seeds")
    places, shares = _points(curve, axis)
    (line,) = ax.plot(places, shares, zorder=3, gid=gid, **look.options)
    shown, ranks = marked(curve), zip(along(curve, axis), curve.ranks, strict=True)
    marks = {place for place, rank in ranks if rank in shown}
    line.set_markevery([i for i, place in enumerate(places) if place in marks])
    return line


def banded(coloured: Sequence[CurveRow]) -> list[CurveRow]:
    """The curves that get a band: the default ones, or only the best where there are many."""
    default = [curve for curve in coloured if curve.is_default]
    return default if len(default) <= _MAX_BANDS else ordered(default)[:1]


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


def _level(ax: Axes, curve: CurveRow, colour: str, gid: str, axis: str) -> None:
    """A dotted line at the accuracy of the highest rank."""
    ends, height = (min(along(curve, axis)), _points(curve, axis)[0][-1]), 100 * curve.accuracy[-1]
    (level,) = ax.plot(ends, (height, height), color=colour, linewidth=1, zorder=1.6)
    level.set(linestyle=(0, (1, 2)), gid=gid)


def _ring(ax: Axes, curve: CurveRow, look: Style, rank: int, gid: str, axis: str) -> None:
    from matplotlib import rcParams

    at = curve.ranks.index(rank)
    place, height = along(curve, axis)[at], 100 * curve.accuracy[at]
    (ring,) = ax.plot([place], [height], "o", markerfacecolor="none", markeredgecolor=look.colour)
    ring.set(markersize=2.4 * rcParams["lines.markersize"], markeredgewidth=1.6, zorder=4, gid=gid)


def _points(curve: CurveRow, axis: str) -> tuple[list[float], list[float]]:
    """Places and percent, with a hole (nan) at every rank that is missing."""
    known = dict(zip(along(curve, axis), curve.accuracy, strict=True))
    places = sorted({*known, *(curve.missing if axis not in BUDGETS else ())})
    return places, [100 * known.get(place, NAN) for place in places]


def _band(ax: Axes, curve: CurveRow, colour: str, gid: str, axis: str) -> None:
    """The pointwise interval: a band over several ranks, with holes, or one whisker."""
    ends = zip(curve.accuracy_low, curve.accuracy_high, strict=True)
    bounds = dict(zip(along(curve, axis), ends, strict=True))
    bounds |= dict.fromkeys(curve.missing if axis not in BUDGETS else (), (None, None))
    places = sorted(bounds)
    lows, highs = 100 * np.array([bounds[place] for place in places], dtype=float).T
    if len(places) == 1:
        ax.vlines(places, lows, highs, color=colour, linewidth=1.0, zorder=2).set_gid(gid)
    else:
        band = ax.fill_between(places, lows, highs, color=colour, alpha=0.13, linewidth=0, zorder=2)
        band.set_gid(gid)


def _horizontal_axis(ax: Axes, ranks: Collection[int], axis: str) -> None:
    if axis != "linear":
        ax.set_xscale("log", base=2)
    if axis in BUDGETS:
        _plain_log_ticks(ax)
        unit = "parameters (millions" if axis == "parameters" else "adapter size (MB"
        ax.set_xlabel(f"{unit}, log2 axis)")
        return
    shown = ticks(ranks, axis)
    ax.set_xticks(shown, [str(rank) for rank in shown])
    ax.minorticks_off()
    ax.set_xlabel(f"rank ({axis} axis)")
    if len(set(ranks)) == 1:
        only = next(iter(ranks))
        ax.set_xlim((only / 2, only * 2) if axis == "log2" else (only - 1, only + 1))


def ticks(ranks: Iterable[int], axis: str, most: int = 10) -> list[int]:
    """The ranks that the axis names: the ends, and those far enough apart to be read."""
    listed = sorted(set(ranks))
    if len(listed) < 2:
        return listed
    place = math.log2 if axis == "log2" else float
    least = (place(listed[-1]) - place(listed[0])) / most
    shown = [listed[-1]]
    powers = [rank for rank in listed if rank & (rank - 1) == 0]
    for rank in [listed[0], *reversed(powers), *reversed(listed)]:
        if all(abs(place(rank) - place(other)) >= 0.999 * least for other in shown):
            shown.append(rank)
    return sorted(shown)


def percent_axis(
    ax: Axes, curves: Sequence[CurveRow], with_band: Sequence[CurveRow], *, base: bool = True
) -> None:
    """Label and scale the axis so that lines, seeds, bands and (with `base`) base lines fit."""
    values = [value for c in curves for one in (c, *c.members) for value in one.accuracy]
    values += [v for c in with_band for v in (*c.accuracy_low, *c.accuracy_high) if v is not None]
    values += list(baselines(curves).values()) if base else []
    names = {curve.metric.split(",")[0] for curve in curves}
    ax.set_ylabel(f"{one_line(names.pop(), 24) if len(names) == 1 else 'accuracy'} (%)")
    if not values:
        return
    low, high = 100 * min(values), 100 * max(values)
    pad = max(0.06 * (high - low), (10 - (high - low)) / 2)
    bottom, top = ax.set_ylim(max(-1.5, low - pad), min(101.5, high + pad))
    ax.set_yticks([tick for tick in ax.get_yticks() if max(0, bottom) <= tick <= min(100, top)])


def baselines(curves: Sequence[CurveRow]) -> dict[str, float]:
    """The accuracy at rank 0 by the name of its line; one for each base model."""
    bases = sorted({(c.base or "", c.baseline) for c in curves if c.baseline is not None})
    if len(bases) == 1:
        return {BASE_LABEL: bases[0][1]}
    return {f"base {name or at}": value for at, (name, value) in enumerate(bases)}


def cost(
    ax: Axes, curves: Sequence[CurveRow], *, style: Styles | None = None, labels: bool = True
) -> Axes:
    """Accuracy in percent against the megabytes of an adapter at each rank."""
    style = style or styles(curves)
    drawn = [curve for curve in curves if curve.ranks and all(curve.bytes)]
    for at, curve in enumerate(drawn):
        amounts = [amount / 1e6 for amount in curve.bytes if amount]
        shares = [100 * value for value in curve.accuracy]
        look = style[key(curve)].options
        (line,) = ax.plot(amounts, shares, label=legend_label(curve), **look)
        line.set_gid(f"curve-{at}")
    percent_axis(ax, drawn, (), base=False)
    ax.set_xscale("log")
    _plain_log_ticks(ax)
    ax.set_xlabel("adapter size (MB, log axis)")
    _parameter_axis(ax, drawn)
    if labels:
        ends = [(legend_label(c), 100 * c.accuracy[-1], (c.bytes[-1] or 0) / 1e6) for c in drawn]
        end_labels(ax, ends, [style[key(c)].colour for c in drawn])
    return ax


def _plain_log_ticks(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _parameter_axis(ax: Axes, curves: Sequence[CurveRow]) -> None:
    """Parameters along the top, where every curve has the same number of bytes for each."""
    ratios = {
        round(size / count, 6)
        for c in curves
        for size, count in zip(c.bytes, c.parameters, strict=False)
        if size and count
    }
    if len(ratios) == 1:
        each = ratios.pop()
        both: Any = (lambda amount: amount / each, lambda number: number * each)
        top = ax.secondary_xaxis("top", functions=both)
        _plain_log_ticks(top)
        top.set_xlabel("parameters (millions)")


def gained_lost(
    ax: Axes, changes: Changes, *, colour: str = INK, most: tuple[float, float] | None = None
) -> Axes:
    """Documents gained (up) and lost (down) at each rank; panels share the scale `most`."""
    places = range(len(changes.steps))
    up = [step.gained / changes.n_docs for step in changes.steps]
    down = [-step.lost / changes.n_docs for step in changes.steps]
    ax.bar(places, up, width=0.62, color=colour, label="gained")
    ax.bar(places, down, width=0.62, facecolor=PAPER, edgecolor=colour, hatch="////", label="lost")
    ax.axhline(0, color=AXIS, linewidth=0.8)
    highest, lowest = most or (max(up), -min(down))
    top = max(highest, lowest, 1 / changes.n_docs)
    for place, step in enumerate(changes.steps):
        above, below = up[place] + 0.03 * top, down[place] - 0.03 * top
        ax.text(place, above, str(step.gained), ha="center", va="bottom", fontsize=8)
        ax.text(place, below, str(step.lost), ha="center", va="top", fontsize=8)
    ax.set_ylim(-lowest - 0.24 * top, max(highest, 0.1 * top) + 0.16 * top)
    ax.set_xticks(places, [f"{a}→{b}" for a, b in changes.pairs])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8)
    ax.set_title(one_line(changes.label, LABEL_CHARS))
    return ax


def groups(
    ax: Axes,
    strata: Sequence[StratumRow],
    curves: Mapping[str, CurveRow],
    *,
    style: Styles | None = None,
) -> Axes:
    """The area on each group of documents as a dot with its interval, one row for each group.

    `curves` are the rows by the names that the strata have.
    """
    style = style or styles(curves.values())
    names = list(dict.fromkeys(row.stratum for row in strata))
    for at, (name, curve) in enumerate(curves.items()):
        look = style[key(curve)]
        shown = [row for row in strata if row.curve == name]
        shift = 0.6 * ((at + 0.5) / len(curves) - 0.5)
        places = [names.index(row.stratum) + shift for row in shown]
        ends = np.array([(row.log2.low, row.log2.high) for row in shown], dtype=float)
        ax.hlines(places, *100 * ends.T, color=look.colour, linewidth=1.0, alpha=0.6)
        ax.plot(
            [100 * row.log2.value for row in shown],
            places,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            label=one_line(curve.label, LABEL_CHARS),
        )
    ax.set_yticks(range(len(names)), [one_line(name, LABEL_CHARS) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AURAC, log2 axis (%)")
    if len(curves) > 1:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            borderaxespad=0.2,
            handletextpad=0.3,
            fontsize=LABEL_SIZE,
        )
    return ax
