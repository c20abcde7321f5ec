"""Colours, markers and line styles: one look for each adapter, the same in every figure.

The hues differ in lightness, hold 3:1 against white, and stay apart for the common kinds of colour
blindness; markers tell the adapters apart in grey, line and fill tell the inferences apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.report.model import CurveRow

STYLE_FILE = Path(__file__).parent / "templates" / "paper.mplstyle"

INK, AXIS, GRID, PAPER, BASE, REST = (
    "#22262b",
    "#6f7780",
    "#e3e6e9",
    "#ffffff",
    "#5b636c",
    "#c3c8ce",
)
# (light, dark background) pairs.
SERIES = (
    ("#0067a5", "#5ab4f0"),
    ("#c44e00", "#ff9b57"),
    ("#00795a", "#3fc79a"),
    ("#a6478c", "#e79ad2"),
    ("#8a6a00", "#d9b93b"),
    ("#2f93c8", "#9fdcff"),
    ("#6b3a1e", "#cfa083"),
    ("#5c2d91", "#b79af0"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = {"default": "-", "published": (0, (4, 2.2)), "extra": (0, (1, 1.6))}
MAX_HIGHLIGHTED = 8
# Colour in a figure -> custom property of the page, so that one SVG serves light and dark.
PROPERTIES = {
    INK: "--ink",
    AXIS: "--axis",
    GRID: "--grid",
    PAPER: "--paper",
    BASE: "--base",
    REST: "--rest",
    **{light: f"--s{i}" for i, (light, _) in enumerate(SERIES)},
}


@dataclass(frozen=True)
class Look:
    """How one curve is drawn."""

    colour: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    hollow: bool


def looks(curves: Iterable[CurveRow]) -> dict[tuple[str, str, str], Look]:
    """A look for every (adapter, basis, rescale); the hue and marker follow the adapter.

    With more than eight adapters hues come round again, which is why figures highlight eight.
    """
    listed = list(curves)
    order = {name: i for i, name in enumerate(dict.fromkeys(curve.adapter for curve in listed))}
    return {key(curve): _look(curve, order[curve.adapter]) for curve in listed}


def key(curve: CurveRow) -> tuple[str, str, str]:
    """What a curve's look depends on."""
    return curve.adapter, curve.basis, curve.rescale


def _look(curve: CurveRow, index: int) -> Look:
    at = index % len(SERIES)
    hollow = curve.role != "default"
    line = LINES[curve.role]
    return Look(SERIES[at][0], MARKERS[at], line, hollow)  # type: ignore[arg-type]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart within [low, high], in the order of `wanted` and close to it.

    Labels that would touch are moved as one block around their mean, so that no label runs far
    from its line. Where the span is too short for all, they are laid out evenly over it.
    """
    n = len(wanted)
    if n == 0:
        return []
    gap = min(gap, (high - low) / max(1, n - 1)) if n > 1 else gap
    order = sorted(range(n), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, int]] = []  # (sum of wanted starts, members)
    for place, i in enumerate(order):
        blocks.append((wanted[i] - place * gap, 1))
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            (total, members), (more, others) = blocks[-2], blocks.pop()
            blocks[-1] = (total + more, members + others)
    starts = [_mean(block) for block in blocks for _ in range(block[1])]
    ceiling = high - (n - 1) * gap
    placed = [0.0] * n
    for place, i in enumerate(order):
        placed[i] = min(max(starts[place], low), max(ceiling, low)) + place * gap
    return placed


def _mean(block: tuple[float, int]) -> float:
    return block[0] / block[1]
