"""What a rank-accuracy curve may hide between two ranks that were evaluated.

Over x = log2 r the accuracies are joined by straight lines. At each end of a gap between two ranks
the line through the two points outside of it, extended to the middle of the gap, misses the
straight line inside by the bend

    a = (s_left - s) · h / 2,   b = (s - s_right) · h / 2

(s: slopes, h: width of the gap). A curve that bends one way around the gap stays inside the
triangle of the three lines (Siem, den Hertog and Hoffmann 2011), whose height is

    2 |a| |b| / (|a| + |b|)

This is exact for a single kink, four times what a smooth curve hides (h² f'' / 8), and the least by
which a step between the outer lines departs where the ends bend opposite ways.

The last gap has one end. There such a curve stays between the line from outside and the straight
line inside, which are |a| apart at the middle, where the next rank would be, and 2 |a| (x - x_left)
/ h at x: almost 2 |a| at the rank before the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from aurac.curves.curve import Curve
from aurac.stats.mean import layout_of, moments

MARGIN = 0.02
LEVEL = 0.16  # a bend beyond one standard error, on one side


@dataclass(frozen=True)
class Gap:
    """Two neighbouring ranks of a curve with whole ranks between them."""

    low: int
    high: int
    # How far the curve may lie from the straight line between them, a fraction; with one end at the
    # middle, which the margin is compared with
    height: float
    departure: float  # the same, at any rank between them
    clear: bool  # whether the bends at its ends are larger than their noise

    @property
    def middle(self) -> int:
        """The rank in the middle over log2 r."""
        return round(math.sqrt(self.low * self.high))


def following(gaps: Iterable[Gap], margin: float = MARGIN) -> tuple[int, ...]:
    """The ranks to evaluate next: the middles of gaps with clear bends and a larger height."""
    return tuple(sorted({gap.middle for gap in gaps if gap.clear and gap.height > margin}))


def noise_limit(curves: int) -> float:
    """How many standard errors a bend must have, where so many curves are looked at.

    One for a single curve; the share of noise beyond it is divided among several (Bonferroni).
    """
    return float(-ndtri(LEVEL / curves))


def gaps(curve: Curve, curves: int = 1) -> list[Gap]:
    """The gaps of a curve, in ascending order; `curves` are as of `noise_limit`.

    Raises:
        CurveError: The curve has no per-document outcomes.
    """
    layout, limit = layout_of(curve), noise_limit(curves)
    outcomes = np.asarray(curve.outcomes)
    x = np.log2(curve.ranks)
    result = []
    for k, (low, high) in enumerate(zip(curve.ranks, curve.ranks[1:], strict=False)):
        if high - low > 1:
            bends = moments(_bends(x, k) @ outcomes, layout)
            sizes = np.abs(bends.mean)
            clear = bool(np.all(sizes > limit * bends.se))
            height = departure = _height(sizes)
            if sizes.size == 1:
                departure *= 2.0 * math.log((high - 1) / low) / math.log(high / low)
            result.append(Gap(low, high, height, departure, clear))
    return result


def _bends(x: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(ends, K) weights of the accuracies in the bends at the ends of gap k of positions x (K)."""
    widths = np.diff(x)
    slopes = (np.eye(x.size)[1:] - np.eye(x.size)[:-1]) / widths[:, None]
    ends = [j for j in (k - 1, k + 1) if 0 <= j < widths.size]
    return np.array([(k - j) * (slopes[j] - slopes[k]) * widths[k] / 2 for j in ends]).reshape(
        len(ends), x.size
    )


def _height(bends: NDArray[np.float64]) -> float:
    """Their harmonic mean; of a gap without neighbours all that an accuracy can be away."""
    if bends.size == 0:
        return 1.0
    with np.errstate(divide="ignore", over="ignore"):  # a straight end leaves nothing
        return float(bends.size / np.sum(1.0 / bends))
