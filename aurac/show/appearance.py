"""How curves look in every figure: hue, marker, line, and their names at the right edge.

Hue and marker follow the adapter, by its method where that is known; line and fill follow the
truncation, alike in every run. The colours hold 3:1 against white, and stay apart for the common
kinds of colour blindness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from aurac.curves.area import BUDGETS
from aurac.curves.display import percent
from aurac.records.run import PREFIX, WITHOUT_P
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from matplotlib.axes import Axes

    from aurac.records.results_file import Area
    from aurac.records.run import CurveRow
    from aurac.stats.mean import Estimate

INK, AXIS, GRID = "#22262b", "#6f7780", "#e3e6e9"
PAPER, BASE, REST = "#ffffff", "#5b636c", "#c3c8ce"
SERIES = (
    *("#0067a5", "#c44e00", "#00795a", "#a6478c"),
    *("#2f93c8", "#8a3600", "#35a37f", "#6e2a5c"),
)
MARKERS = ("o", "s", "^", "D", "<", "X", "v", "*")
METHODS = {"lora": (0, 4), "dylora": (1, 5), "matryoshka": (2, 6), "nested_loss": (3, 7)}
"""Method → the places in `SERIES` of its first and its second adapter, shades of one hue."""
_OTHER = (0, (2.5, 1.2, 1, 1.2, 1, 1.2))
_AS_PUBLISHED, _WITH_P, _BY_SVD = ("prefix", "rule"), ("prefix", "trained"), ("svd", "keep")
_LINES: Mapping[tuple[str, str], Any] = {
    _AS_PUBLISHED: (0, (4, 2.2)),
    _BY_SVD: (0, (1, 1.6)),
    ("prefix", "fit"): (0, (5, 1.4, 1, 1.4)),
    ("svd", "fit"): (0, (1, 1.2, 1, 3.2)),
    ("prefix", "keep"): (0, (6, 1.4, 1, 1.4, 1, 1.4)),
    ("energy", "keep"): (0, (1, 3.2)),
}
LABEL_CHARS = 42
LABEL_SIZE = 9.0
BASE_LABEL = "base (rank 0)"
BASE_LOOK: dict[str, Any] = {"color": BASE, "linestyle": (0, (6, 3)), "linewidth": 1}
ACCURACY = "Accuracy (%)"
NAMES, SAMPLE = 1.035, 0.085  # of the width of the axes: where names begin, lines before them
_LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1.5, "relpos": (0, 0.5)}
_BESIDE: dict[str, Any] = {"ha": "left", "annotation_clip": False}
_NAME: dict[str, Any] = {"va": "center", "color": INK, "fontsize": LABEL_SIZE, **_BESIDE}


@dataclass(frozen=True)
class Style:
    """How one curve is drawn; `published`: what its published inference is, if that is drawn."""

    colour: str
    marker: str
    line: Any = "-"
    published: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`; another truncation shows what it covers."""
        from matplotlib.markers import MarkerStyle

        other = self.line != "-" and not self.published
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": MarkerStyle(self.marker).scaled(0.7) if other else self.marker,
            "markerfacecolor": self.colour if self.line == "-" else PAPER,
            "markeredgecolor": self.colour,
        }


Styles = Mapping[tuple[str, str, str], Style]


def styles(
    curves: Sequence[CurveRow], coloured: Sequence[CurveRow] = ()
) -> dict[tuple[str, str, str], Style]:
    """A style for every (adapter, basis, rescale) of a run, or of those in colour.

    Solid is what `--basis auto` compares an adapter by, or its only truncation; dashed is the
    published inference beside it. With more than eight adapters hues come round again, which is
    why figures highlight eight.
    """
    hues, ways = _hues(coloured or curves), dict[str, set[tuple[str, str]]]()
    for curve in curves:
        ways.setdefault(curve.adapter, set()).add((curve.basis, curve.rescale))
    found = dict[tuple[str, str, str], Style]()
    for curve in coloured or curves:
        cut, every = (curve.basis, curve.rescale), ways[curve.adapter]
        plain, with_p = _method(curve) in ("", "lora"), _WITH_P in every
        own = _WITH_P if with_p else _BY_SVD if plain else _AS_PUBLISHED
        look = Style(*hues[curve.adapter])
        if cut != own and len(every) > 1:
            published = (WITHOUT_P if with_p else PREFIX) if cut == _AS_PUBLISHED else ""
            look = replace(look, line=_LINES.get(cut, _OTHER), published=published)
        found[key(curve)] = look
    return found


def _hues(curves: Sequence[CurveRow]) -> dict[str, tuple[str, str]]:
    """Adapter → colour and marker: those of its method, else the first that are free."""
    methods = {curve.adapter: _method(curve) for curve in curves}
    places = dict[str, int]()
    for adapter, method in methods.items():
        own = (at for at in METHODS.get(method, ()) if at not in places.values())
        if (place := next(own, None)) is not None:
            places[adapter] = place
    free = [at for at in range(len(SERIES)) if at not in places.values()]
    others = (adapter for adapter in methods if adapter not in places)
    places |= zip(others, cycle(free or range(len(SERIES))), strict=False)
    return {adapter: (SERIES[at], MARKERS[at]) for adapter, at in places.items()}


def _method(curve: CurveRow) -> str:
    """The training method, by the name of the adapter where it is not recorded; or nothing."""
    name = (curve.method or curve.adapter).lower()
    return next((method for method in METHODS if name.startswith(method)), "")


def key(curve: CurveRow) -> tuple[str, str, str]:
    """What a curve has its style by."""
    return curve.adapter, curve.basis, curve.rescale


def short_names(curves: Iterable[CurveRow]) -> dict[str, str]:
    """Label → what a figure calls it: cut in the middle, but never so that two look alike."""
    labels = list(dict.fromkeys(curve.label for curve in curves))
    longest = max(map(len, labels), default=0)
    for most in range(LABEL_CHARS, max(longest, LABEL_CHARS) + 1):
        names = dict(zip(labels, (one_line(label, most) for label in labels), strict=True))
        if len({*names.values()}) == len(names):
            break
    return names


def area_labels(
    curves: Sequence[CurveRow],
    areas: Mapping[str, Area | Estimate] | None = None,
    axis: str = "log2",
) -> dict[str, str]:
    """Short name of each curve → with its AURAC, for the end of its line or a legend; by AURAC."""
    own = {curve.id: curve.linear if axis == "linear" else curve.log2 for curve in curves}
    values = {c.label: area.value for c in curves if (area := (areas or own)[c.id])}
    names = {name: values.get(label) for label, name in short_names(curves).items()}
    falling = sorted(names.items(), key=lambda named: math.inf if named[1] is None else -named[1])
    return {name: name if area is None else f"{name} {percent(area)}" for name, area in falling}


def end_labels(
    ax: Axes,
    ends: Sequence[tuple[str, float, float | None]],
    looks: Sequence[Mapping[str, Any]],
    area: str,
) -> None:
    """Name each line (text, height in the data, last rank or None) at the right edge, apart.

    Each name stands behind a sample of its line.
    """
    from matplotlib.lines import Line2D

    height = 72 * ax.bbox.height / ax.figure.dpi  # points
    low, high = ax.get_ylim()
    fractions = [(value - low) / (high - low) for _, value, _ in ends]
    placed = spread(fractions, 1.32 * LABEL_SIZE / height, 0.0, 1.0)
    right, inside = ax.get_xlim()[1], "axes fraction"
    for at, ((text, value, rank), spot) in enumerate(zip(ends, placed, strict=True)):
        name, place = f"{'base' if rank is None else 'curve'}-{at}", (NAMES + 1.25 * SAMPLE, spot)
        ax.annotate(text, place, xycoords=inside, gid=f"{name}-label", **_NAME)
        leader = ax.annotate(
            "",
            xy=(right if rank is None else rank, value),
            xytext=(NAMES, spot),
            textcoords=inside,
            arrowprops={**_LEADER, "color": looks[at]["color"], "shrinkB": 4 * (rank is not None)},
            **_BESIDE,
        )
        if leader.arrow_patch is not None:
            leader.arrow_patch.set_gid(f"{name}-leader")
        along = [NAMES, NAMES + SAMPLE / 2, NAMES + SAMPLE]
        look = {**looks[at], "markevery": [1], "gid": f"{name}-sample"}
        ax.figure.add_artist(Line2D(along, [spot] * 3, transform=ax.transAxes, **look))
    beside(ax, f"{area} (%)", max(placed), LABEL_SIZE, 1.25 * SAMPLE)


def beside(ax: Axes, text: str, height: float, above: float, right: float = 0.0) -> None:
    """A remark right of the axes, `above` points over a fraction of their height."""
    ax.annotate(
        text,
        xy=(NAMES + right, height),
        xycoords="axes fraction",
        xytext=(0, above),
        textcoords="offset points",
        fontsize=8,
        color=BASE,
        gid="remark-label",
        **_BESIDE,
    )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart within [low, high], in the order of `wanted` and close to it.

    Labels that would touch are moved as one block around their mean, so that no label runs far
    from its line. Where the span is too short for all, they are laid out evenly over it.
    """
    n = len(wanted)
    gap = min(gap, (high - low) / (n - 1)) if n > 1 else gap
    order, places = np.argsort(wanted, kind="stable"), gap * np.arange(n)
    starts = isotonic_regression(np.take(wanted, order) - places).x if n else places
    placed = np.empty(n)
    placed[order] = np.clip(starts, low, max(high - (n - 1) * gap, low)) + places
    return placed.tolist()


def horizontal_axis(ax: Axes, ranks: Collection[int], axis: str) -> None:
    """Scale and name the axis of ranks, or of a budget."""
    if axis != "linear":
        ax.set_xscale("log", base=2)
    if axis in BUDGETS:
        log_ticks(ax)
        unit = "Parameters (millions" if axis == "parameters" else "Adapter size (MB"
        ax.set_xlabel(f"{unit}, log2 axis)")
        return
    shown = ticks(ranks, axis)
    ax.set_xticks(shown, [str(rank) for rank in shown])
    ax.minorticks_off()
    ax.set_xlabel(rank_title(axis))
    if len(set(ranks)) == 1:
        only = next(iter(ranks))
        ax.set_xlim((only / 2, only * 2) if axis == "log2" else (only - 1, only + 1))


def rank_title(axis: str) -> str:
    """What an axis of ranks is called."""
    return f"Rank ({axis} axis)"


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
    """Label and scale the axis so that lines, bands and (with `base`) base lines fit."""
    values = [value for curve in curves for value in curve.accuracy]
    values += [v for c in with_band for v in (*c.accuracy_low, *c.accuracy_high) if v is not None]
    values += list(baselines(curves).values()) if base else []
    ax.set_ylabel(ACCURACY)
    ax.locator_params(axis="y", steps=[1, 2, 5, 10])
    if not values:
        return
    low, high = 100 * min(values), 100 * max(values)
    pad = max(0.06 * (high - low), (10 - (high - low)) / 2)
    bottom, top = ax.set_ylim(max(-1.5, low - pad), min(101.5, high + pad))
    ax.set_yticks([tick for tick in ax.get_yticks() if max(0, bottom) <= tick <= min(100, top)])


def log_ticks(ax: Any) -> None:
    """Plain numbers at 1, 2, 5, 10, … of a logarithmic axis."""
    from matplotlib.ticker import LogLocator

    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def parameter_axis(ax: Axes, curves: Sequence[CurveRow]) -> None:
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
        log_ticks(top)
        top.set_xlabel("Parameters (millions)")


def baselines(curves: Sequence[CurveRow]) -> dict[str, float]:
    """The accuracy at rank 0 by the name of its line; one for each base model."""
    bases = sorted({(c.base or "", c.baseline) for c in curves if c.baseline is not None})
    if len(bases) == 1:
        return {BASE_LABEL: bases[0][1]}
    return {f"base {name or at}": value for at, (name, value) in enumerate(bases)}
