"""Curves, sizes, documents gained and lost, and groups, drawn on the Axes that are given.

The hue and the marker follow the adapter; line and fill follow the truncation. The hues differ in
lightness, hold 3:1 against white, and stay apart for the common kinds of colour blindness.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.curves.area import BUDGETS, area_name
from aurac.curves.display import percent
from aurac.report.escape import one_line
from aurac.report.model import ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from aurac.report.comparisons import Group
    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Interval
    from aurac.runs.schema import DecisionRecord

INK, AXIS, GRID, PAPER, BASE, REST = (
    "#22262b",
    "#6f7780",
    "#e3e6e9",
    "#ffffff",
    "#5b636c",
    "#c3c8ce",
)
SERIES = (
    "#0067a5",
    "#c44e00",
    "#00795a",
    "#a6478c",
    "#8a6a00",
    "#2f93c8",
    "#6b3a1e",
    "#5c2d91",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: Mapping[str, Any] = {"default": "-", "published": (0, (4, 2.2)), "extra": (0, (1, 1.6))}
LABEL_CHARS = 24
LABEL_SIZE = 9.0
BASE_LABEL = "base (rank 0)"
_MAX_BANDS = 4
_MAX_MARKS = 16
_NAN = float("nan")


@dataclass(frozen=True)
class Style:
    """How one curve is drawn."""

    colour: str
    marker: str
    line: Any
    hollow: bool

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "markerfacecolor": PAPER if self.hollow else self.colour,
            "markeredgecolor": self.colour,
        }


Styles = Mapping[tuple[str, str, str], Style]


def styles(curves: Iterable[CurveRow]) -> dict[tuple[str, str, str], Style]:
    """A style for every (adapter, basis, rescale).

    With more than eight adapters hues come round again, which is why figures highlight eight.
    """
    listed = list(curves)
    order = {name: i for i, name in enumerate(dict.fromkeys(curve.adapter for curve in listed))}
    return {
        key(c): Style(
            SERIES[order[c.adapter] % len(SERIES)],
            MARKERS[order[c.adapter] % len(SERIES)],
            LINES[c.role],
            not c.is_default,
        )
        for c in listed
    }


def key(curve: CurveRow) -> tuple[str, str, str]:
    """What a curve's style depends on."""
    return curve.adapter, curve.basis, curve.rescale


def rank_accuracy(
    ax: Axes,
    curves: Sequence[CurveRow],
    *,
    axis: str = "log2",
    style: Styles | None = None,
    highlight: Collection[str] | None = None,
    areas: Mapping[str, Interval] | None = None,
    non_inferior: Mapping[str, int] | None = None,
    full: Collection[str] = (),
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against rank or size, with pointwise bands and a dashed line, the base.

    A curve over several training seeds is drawn as their mean, the seeds thin beneath it.

    Args:
        ax: Where to draw.
        curves: The curves of one task.
        axis: "log2" or "linear" of the rank, "parameters" or "bytes".
        style: Styles that other figures share.
        highlight: Ids of the curves in colour, the rest is thin and grey.
        areas: Id of a curve → its AURAC over a budget; only these curves are drawn.
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
        if curve.members:
            _thin(ax, curve.members, look.colour, 2.5, axis).set(alpha=0.55, gid=f"{name}-seeds")  # type: ignore[union-attr]
        places, shares = _points(curve, axis)
        text = legend_label(curve, areas)
        (line,) = ax.plot(places, shares, zorder=3, label=text, **look.options)
        line.set_gid(name)
        marks = {
            x for x, r in zip(along(curve, axis), curve.ranks, strict=True) if r in marked(curve)
        }
        line.set_markevery([i for i, place in enumerate(places) if place in marks])
        if curve in with_band:
            _band(ax, curve, look.colour, f"{name}-band", axis)
        if curve.id in full:
            ends, height = (min(along(curve, axis)), places[-1]), 100 * curve.accuracy[-1]
            (level,) = ax.plot(ends, (height, height), color=look.colour, linewidth=1, zorder=1.6)
            level.set(linestyle=(0, (1, 2)), gid=f"{name}-full")
        if non_inferior and non_inferior.get(curve.id) in curve.ranks:
            _ring(ax, curve, look, non_inferior[curve.id], f"{name}-ring", axis)
    if axis in BUDGETS:
        _budget_axis(ax, axis)
    else:
        _rank_axis(ax, {rank for curve in curves for rank in (*curve.ranks, *curve.missing)}, axis)
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
    return [_NAN if amount is None else amount / 1e6 for amount in each]


def legend_label(curve: CurveRow, areas: Mapping[str, Interval] | None = None) -> str:
    """Name and AURAC of a curve, at the end of its line or in a legend."""
    area = curve.log2 if areas is None else areas[curve.id]
    number = percent(area.value) if area else ""
    return f"{one_line(curve.label, LABEL_CHARS)} {number}".rstrip()


def _thin(
    ax: Axes, curves: Sequence[CurveRow], colour: str, order: float, axis: str
) -> Line2D | None:
    """Thin lines, all in one artist: a hundred of them stay a small file."""
    each = (zip(*_points(curve, axis), strict=True) for curve in curves)
    points = [point for line in each for point in (*line, (_NAN, _NAN))]
    if not points:
        return None
    (line,) = ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, zorder=order)
    return line


def _ring(ax: Axes, curve: CurveRow, look: Style, rank: int, gid: str, axis: str) -> None:
    """A ring around the smallest non-inferior rank."""
    from matplotlib import rcParams

    at = curve.ranks.index(rank)
    place, height = along(curve, axis)[at], 100 * curve.accuracy[at]
    (ring,) = ax.plot([place], [height], "o", markerfacecolor="none", markeredgecolor=look.colour)
    ring.set(markersize=2.4 * rcParams["lines.markersize"], markeredgewidth=1.6, zorder=4, gid=gid)


def _points(curve: CurveRow, axis: str) -> tuple[list[float], list[float]]:
    """Places and percent, with a hole (nan) at every rank that is missing."""
    known = dict(zip(along(curve, axis), curve.accuracy, strict=True))
    places = sorted({*known, *(curve.missing if axis not in BUDGETS else ())})
    return places, [100 * known.get(place, _NAN) for place in places]


def _band(ax: Axes, curve: CurveRow, colour: str, gid: str, axis: str) -> None:
    """The pointwise interval: a band over several ranks, with holes, or one whisker."""
    missing = curve.missing if axis not in BUDGETS else ()
    bounds: dict[float, tuple[float, float]] = dict.fromkeys(missing, (_NAN, _NAN))
    ends = zip(along(curve, axis), curve.accuracy_low, curve.accuracy_high, strict=True)
    for place, low, high in ends:
        known = low is not None and high is not None
        bounds[place] = (100 * low, 100 * high) if known else (_NAN, _NAN)  # type: ignore[operator]
    places = sorted(bounds)
    lows, highs = zip(*(bounds[place] for place in places), strict=True)
    if len(places) == 1:
        ax.vlines(places, lows, highs, color=colour, linewidth=1.0, zorder=2).set_gid(gid)
    else:
        band = ax.fill_between(places, lows, highs, color=colour, alpha=0.13, linewidth=0, zorder=2)
        band.set_gid(gid)


def _rank_axis(ax: Axes, ranks: Collection[int], axis: str) -> None:
    if axis == "log2":
        ax.set_xscale("log", base=2)
    shown = ticks(ranks, axis)
    ax.set_xticks(shown, [str(rank) for rank in shown])
    ax.minorticks_off()
    ax.set_xlabel(f"rank ({axis} axis)")
    if len(set(ranks)) == 1:
        only = next(iter(ranks))
        ax.set_xlim((only / 2, only * 2) if axis == "log2" else (only - 1, only + 1))


def _budget_axis(ax: Axes, axis: str) -> None:
    ax.set_xscale("log", base=2)
    _plain_log_ticks(ax)
    unit = "parameters (millions" if axis == "parameters" else "adapter size (MB"
    ax.set_xlabel(f"{unit}, log2 axis)")


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


def end_labels(
    ax: Axes,
    ends: Sequence[tuple[str, float, float | None]],
    tints: Sequence[str],
    area: str = "AURAC",
) -> None:
    """Name each line (text, height in the data, last rank or None) at the right edge, apart."""
    height = 72 * ax.bbox.height / ax.figure.dpi  # points
    low, high = ax.get_ylim()
    fractions = [(value - low) / (high - low) for _, value, _ in ends]
    placed = spread(fractions, 1.32 * LABEL_SIZE / height, 0.0, 1.0)
    right = ax.get_xlim()[1]
    for at, ((text, value, rank), spot) in enumerate(zip(ends, placed, strict=True)):
        note = ax.annotate(
            text,
            xy=(right if rank is None else rank, value),
            xycoords="data",
            xytext=(1.035, spot),
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=LABEL_SIZE,
            color=INK,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": tints[at],
                "linewidth": 0.8,
                "shrinkA": 1.5,
                "shrinkB": 4 if rank is not None else 0,
                "relpos": (0, 0.5),
            },
        )
        name = f"curve-{at}" if rank is not None else f"base-{at}"
        note.set_gid(f"{name}-label")
        if note.arrow_patch is not None:
            note.arrow_patch.set_gid(f"{name}-leader")
    ax.annotate(
        f"{area} (%)",
        xy=(1.035, 1),
        xycoords="axes fraction",
        xytext=(0, 9),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=BASE,
        annotation_clip=False,
    )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart within [low, high], in the order of `wanted` and close to it.

    Labels that would touch are moved as one block around their mean, so that no label runs far
    from its line. Where the span is too short for all, they are laid out evenly over it.
    """
    n = len(wanted)
    gap = min(gap, (high - low) / (n - 1)) if n > 1 else gap
    order = sorted(range(n), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, int]] = []  # (mean of wanted starts, members)
    for place, i in enumerate(order):
        blocks.append((wanted[i] - place * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, members), (other, others) = blocks[-2], blocks.pop()
            total = members + others
            blocks[-1] = ((mean * members + other * others) / total, total)
    starts = [mean for mean, members in blocks for _ in range(members)]
    ceiling = max(high - (n - 1) * gap, low)
    placed = [0.0] * n
    for place, i in enumerate(order):
        placed[i] = min(max(starts[place], low), ceiling) + place * gap
    return placed


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


def dots(ax: Axes, groups: Sequence[Group], *, style: Styles | None = None) -> Axes:
    """The area on each group of documents as a dot with its interval, one row for each group."""
    curves = list({group.curve.id: group.curve for group in groups}.values())
    style = style or styles(curves)
    names = list(dict.fromkeys(group.name for group in groups))
    for at, curve in enumerate(curves):
        look = style[key(curve)]
        own = [group for group in groups if group.curve.id == curve.id]
        shift = 0.6 * ((at + 0.5) / len(curves) - 0.5)
        places = [names.index(group.name) + shift for group in own]
        lows = [_NAN if g.log2.low is None else 100 * g.log2.low for g in own]
        highs = [_NAN if g.log2.high is None else 100 * g.log2.high for g in own]
        ax.hlines(places, lows, highs, color=look.colour, linewidth=1.0, alpha=0.6)
        ax.plot(
            [100 * group.log2.value for group in own],
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


def looks(ax: Axes, decision: DecisionRecord) -> Axes:
    """The path of z against its boundaries, look by look.

    Args:
        ax: Where to draw.
        decision: With its looks.
    """
    documents = [look.documents for look in decision.path]
    upper, lower = (
        [x.boundary if x.z * sign >= 0 or x.opposite is None else x.opposite for x in decision.path]
        for sign in (1, -1)
    )
    inner = [(n, x.futility) for n, x in zip(documents, decision.path, strict=True) if x.futility]
    sides = ((1, upper),) if decision.question == "rank" else ((1, upper), (-1, lower))
    for sign, bounds in sides:
        ax.plot(documents, [sign * b for b in bounds], color=INK, linestyle="--", linewidth=1)
        edges = [sign * edge for _, edge in inner]
        ax.plot([n for n, _ in inner], edges, color=AXIS, linestyle=":", linewidth=1)
    ax.plot(documents, [look.z for look in decision.path], color=SERIES[0], marker="o")
    ax.axhline(0, color=AXIS, linewidth=0.8)
    ax.set_xlim(0, decision.of)
    ax.set_xlabel("documents")
    ax.set_ylabel("z")
    who = f"{decision.b} - {decision.a}" if decision.b else f"{decision.a}, rank {decision.rank}"
    ax.set_title(one_line(f"{who}: {decision.verdict}", 60), loc="left", fontsize=8)
    return ax
