"""How curves look in every figure: hue, marker, line, and their names at the right edge.

The hue and the marker follow the adapter; line and fill follow the truncation. The hues differ in
lightness, hold 3:1 against white, and stay apart for the common kinds of colour blindness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from aurac.curves.display import percent
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

    from aurac.show.model import CurveRow, Interval
    from aurac.stats.mean import Estimate

INK, AXIS, GRID = "#22262b", "#6f7780", "#e3e6e9"
PAPER, BASE, REST = "#ffffff", "#5b636c", "#c3c8ce"
SERIES = (
    *("#0067a5", "#c44e00", "#00795a", "#a6478c"),
    *("#8a6a00", "#2f93c8", "#6b3a1e", "#5c2d91"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: Mapping[str, Any] = {"default": "-", "published": (0, (4, 2.2)), "extra": (0, (1, 1.6))}
LABEL_CHARS = 24
LABEL_SIZE = 9.0
BASE_LABEL = "base (rank 0)"
_LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1.5, "relpos": (0, 0.5)}
_BESIDE: dict[str, Any] = {"ha": "left", "annotation_clip": False}


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
    looks = zip(SERIES, MARKERS, strict=True)
    hues = dict(zip(dict.fromkeys(curve.adapter for curve in listed), cycle(looks), strict=False))
    return {key(c): Style(*hues[c.adapter], LINES[c.role], not c.is_default) for c in listed}


def key(curve: CurveRow) -> tuple[str, str, str]:
    """What a curve's style depends on."""
    return curve.adapter, curve.basis, curve.rescale


def legend_label(curve: CurveRow, areas: Mapping[str, Interval | Estimate] | None = None) -> str:
    """Name and AURAC of a curve, at the end of its line or in a legend."""
    area = curve.log2 if areas is None else areas[curve.id]
    number = percent(area.value) if area else ""
    return f"{one_line(curve.label, LABEL_CHARS)} {number}".rstrip()


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
            color=INK,
            fontsize=LABEL_SIZE,
            arrowprops={**_LEADER, "color": tints[at], "shrinkB": 0 if rank is None else 4},
            **_BESIDE,
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
        fontsize=8,
        color=BASE,
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
