"""Curve rows drawn on the Axes that are given; every function returns its Axes.

Nothing here makes a figure, saves a file or reads one: see `aurac.report.figures`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from aurac.report.escape import one_line
from aurac.report.style import BASE, INK, PAPER, REST, Look, key, looks, spread
from aurac.report.tables import ordered

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from aurac.report.model import CurveRow

Looks = Mapping[tuple[str, str, str], Look]
LABEL_CHARS = 24
LABEL_SIZE = 9.0
BASE_LABEL = "base (rank 0)"
MAX_BANDS = 4
_MAX_MARKS = 16


def rank_accuracy(
    ax: Axes,
    curves: Sequence[CurveRow],
    *,
    axis: str = "log2",
    looked: Looks | None = None,
    highlight: Collection[str] | None = None,
    certified: Mapping[str, int] | None = None,
    full: Collection[str] = (),
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against the rank, with pointwise bands and the base as a dashed line.

    A curve over several training seeds is drawn as their mean, the seeds thin beneath it.

    Args:
        ax: Where to draw.
        curves: The curves of one task.
        axis: Scale of the rank axis, "log2" or "linear".
        looked: Looks that other figures share; drawn from `curves` when absent.
        highlight: Ids of the curves in colour, the rest is thin and grey; all when absent.
        certified: Id of a curve → its smallest non-inferior rank, which gets a ring.
        full: Ids of the curves with a thin level line at the accuracy of their highest rank.
        labels: Whether the lines are named at the right edge, outside of the axes.
    """
    looked = looked or looks(curves)
    chosen = [c for c in curves if c.ranks and (highlight is None or c.id in highlight)]
    _rest(ax, [curve for curve in curves if curve.ranks and curve not in chosen])
    with_band = banded(chosen)
    for at, curve in enumerate(chosen):
        look = looked[key(curve)]
        _seeds(ax, curve, look, at)
        _draw(ax, curve, look, at, band=curve in with_band)
        if curve.id in full:
            _level(ax, curve, look, at)
        if certified and certified.get(curve.id) in curve.ranks:
            _ring(ax, curve, look, at, certified[curve.id])
    _rank_axis(ax, {rank for curve in curves for rank in (*curve.ranks, *curve.missing)}, axis)
    percent_axis(ax, curves, with_band)
    bases = baselines(curves)
    for value in bases.values():
        line = ax.axhline(100 * value, color=BASE, linestyle=(0, (6, 3)), linewidth=1, zorder=1.5)
        line.set_gid("base")
    if labels:
        ends: list[tuple[str, float, float | None]] = [
            (c.label, 100 * c.accuracy[-1], c.ranks[-1]) for c in chosen
        ]
        tints = [looked[key(c)].colour for c in chosen]
        ends += [(name, 100 * value, None) for name, value in bases.items()]
        end_labels(ax, ends, [*tints, *[BASE] * len(bases)])
    return ax


def banded(chosen: Sequence[CurveRow]) -> list[CurveRow]:
    """The curves that get a band: the default ones, or only the best where there are many."""
    default = [curve for curve in chosen if curve.is_default]
    return default if len(default) <= MAX_BANDS else ordered(default)[:1]


def marked(curve: CurveRow) -> list[int]:
    """The ranks with a mark: all, or powers of two and the ends where all would touch."""
    if len(curve.ranks) <= _MAX_MARKS:
        return list(curve.ranks)
    ends = (curve.ranks[0], curve.ranks[-1])
    return [rank for rank in curve.ranks if rank & (rank - 1) == 0 or rank in ends]


def _rest(ax: Axes, curves: Sequence[CurveRow]) -> None:
    """Thin grey lines, all in one artist: a hundred of them stay a small file."""
    nan = float("nan")
    points = [(x, y) for c in curves for x, y in (*zip(*_points(c), strict=True), (nan, nan))]
    if points:
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=REST, linewidth=0.7, zorder=1)


def _seeds(ax: Axes, curve: CurveRow, look: Look, at: int) -> None:
    """The single training seeds behind a mean, thin and in its hue."""
    nan = float("nan")
    points = [p for c in curve.members for p in (*zip(*_points(c), strict=True), (nan, nan))]
    if points:
        x, y = zip(*points, strict=True)
        (line,) = ax.plot(x, y, color=look.colour, linewidth=0.7, alpha=0.55, zorder=2.5)
        line.set_gid(f"curve-{at}-seeds")


def _level(ax: Axes, curve: CurveRow, look: Look, at: int) -> None:
    """The accuracy at the highest rank, drawn back to the lowest: what truncation may lose."""
    ends = (curve.ranks[0], curve.ranks[-1])
    height = 100 * curve.accuracy[-1]
    (line,) = ax.plot(ends, (height, height), color=look.colour, linestyle=(0, (1, 2)), zorder=1.6)
    line.set(linewidth=1.0, gid=f"curve-{at}-full")


def _ring(ax: Axes, curve: CurveRow, look: Look, at: int, rank: int) -> None:
    """A ring around the smallest non-inferior rank."""
    from matplotlib import rcParams

    height = 100 * curve.accuracy[curve.ranks.index(rank)]
    (ring,) = ax.plot([rank], [height], "o", markerfacecolor="none", markeredgecolor=look.colour)
    ring.set(markersize=2.4 * rcParams["lines.markersize"], markeredgewidth=1.6, zorder=4)
    ring.set_gid(f"curve-{at}-ring")


def _points(curve: CurveRow) -> tuple[list[int], list[float]]:
    """Ranks and percent, with a hole (nan) at every rank that is missing."""
    known = dict(zip(curve.ranks, curve.accuracy, strict=True))
    ranks = sorted({*known, *curve.missing})
    return ranks, [100 * known.get(rank, float("nan")) for rank in ranks]


def _draw(ax: Axes, curve: CurveRow, look: Look, at: int, *, band: bool) -> None:
    ranks, percent = _points(curve)
    face = PAPER if look.hollow else look.colour
    (line,) = ax.plot(
        ranks,
        percent,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markerfacecolor=face,
        markeredgecolor=look.colour,
        zorder=3,
        label=one_line(curve.label, LABEL_CHARS),
    )
    line.set_gid(f"curve-{at}")
    line.set_markevery([i for i, rank in enumerate(ranks) if rank in marked(curve)])
    if band:
        _band(ax, curve, look.colour).set_gid(f"curve-{at}-band")


def _band(ax: Axes, curve: CurveRow, colour: str) -> Artist:
    """The pointwise interval: a band over several ranks, with holes, or one whisker."""
    nan = float("nan")
    bounds = dict.fromkeys(curve.missing, (nan, nan))
    for rank, low, high in zip(curve.ranks, curve.low, curve.high, strict=True):
        known = low is not None and high is not None
        bounds[rank] = (100 * low, 100 * high) if known else (nan, nan)  # type: ignore[operator]
    ranks = sorted(bounds)
    lows, highs = [bounds[rank][0] for rank in ranks], [bounds[rank][1] for rank in ranks]
    if len(ranks) == 1:
        return ax.vlines(ranks, lows, highs, color=colour, linewidth=1.0, zorder=2)
    return ax.fill_between(ranks, lows, highs, color=colour, alpha=0.13, linewidth=0, zorder=2)


def _rank_axis(ax: Axes, ranks: Collection[int], axis: str) -> None:
    if axis == "log2":
        ax.set_xscale("log", base=2)
    shown = ticks(ranks, axis)
    ax.set_xticks(shown, [str(rank) for rank in shown])
    ax.minorticks_off()
    ax.set_xlabel("rank (log2 axis)" if axis == "log2" else "rank (linear axis)")
    if len(set(ranks)) == 1:
        only = next(iter(ranks))
        ax.set_xlim((only / 2, only * 2) if axis == "log2" else (only - 1, only + 1))


def ticks(ranks: Iterable[int], axis: str, most: int = 10) -> list[int]:
    """The ranks that the axis names: the ends, and those far enough apart to be read.

    Args:
        ranks: Every rank that is drawn.
        axis: "log2" or "linear".
        most: How many labels fit side by side.
    """
    import math

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
    values += [v for c in with_band for v in (*c.low, *c.high) if v is not None]
    values += list(baselines(curves).values()) if base else []
    ax.set_ylabel(f"{_metric(curves)} (%)")
    if not values:
        return
    low, high = 100 * min(values), 100 * max(values)
    pad = max(0.06 * (high - low), (10 - (high - low)) / 2)
    bottom, top = ax.set_ylim(max(-1.5, low - pad), min(101.5, high + pad))
    ax.set_yticks([tick for tick in ax.get_yticks() if max(0, bottom) <= tick <= min(100, top)])


def _metric(curves: Sequence[CurveRow]) -> str:
    names = {curve.metric.split(",")[0] for curve in curves}
    return one_line(names.pop(), 24) if len(names) == 1 else "accuracy"


def baselines(curves: Sequence[CurveRow]) -> dict[str, float]:
    """The accuracy at rank 0 by the name of its line; one for each base model."""
    found = {(c.base or "", c.baseline) for c in curves if c.baseline is not None}
    ordered = sorted(found)
    if len(ordered) == 1:
        return {BASE_LABEL: ordered[0][1]}
    return {f"base {name or at}": value for at, (name, value) in enumerate(ordered)}


def end_labels(
    ax: Axes, ends: Sequence[tuple[str, float, float | None]], tints: Sequence[str]
) -> None:
    """Name each line at the right edge, moved apart so that no two names touch."""
    height = 72 * ax.bbox.height / ax.figure.dpi  # points
    low, high = ax.get_ylim()
    fractions = [(value - low) / (high - low) for _, value, _ in ends]
    placed = spread(fractions, 1.32 * LABEL_SIZE / height, 0.0, 1.0)
    right = ax.get_xlim()[1]
    for at, ((text, value, rank), spot) in enumerate(zip(ends, placed, strict=True)):
        note = ax.annotate(
            one_line(text, LABEL_CHARS),
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
