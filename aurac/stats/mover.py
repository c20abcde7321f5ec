"""A mean difference that few documents decide: the interval from its gains and its losses.

Student's t assumes that a mean difference is symmetric. Many small gains with few large losses are
not: where few of the large losses happen to be drawn, mean and spread are both too small. The gains
and the losses are therefore taken apart, each a mean in [0, 1] with Clopper-Pearson ends at its
effective number of events, and put together by the method of variance estimates recovery (MOVER:
Newcombe 1998; Zou and Donner 2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.stats.mean import moments, t_quantile, unit_residuals, zero_spread_bound
from aurac.stats.mean_interval import Excess, effective_binomial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.stats.mean import Layout

ENOUGH = 30.0  # effective events of gains and of losses from which t holds
SYMMETRIC = 100.0  # events to which the skewness of the mean must correspond for t to hold


def _events(values: NDArray[np.float64], layout: Layout) -> float:
    """``(mean / se)²`` of (n,) numbers: the count of equal events that would vary as much.

    0 where nothing happened, infinite where all documents are alike.
    """
    result = moments(values, layout)
    mean, se = float(result.mean), float(result.se)
    if mean <= 1e-12:
        return 0.0
    return (mean / se) ** 2 if se > 1e-12 else float("inf")


def few_events(gap: NDArray[np.float64], layout: Layout) -> bool:
    """Whether the mean of (n,) differences is too far from symmetric for Student's t.

    Its skewness ``Σ u³ / (Σ u²)^{3/2}``, with one more document that differs by 1 on the worse
    side, is to be at most that of a hundred events, and either side is to have thirty.
    """
    sides = (np.maximum(gap, 0.0), np.maximum(-gap, 0.0))
    if min(_events(side, layout) for side in sides) < ENOUGH - 1e-6:
        return True
    rest = unit_residuals(gap, layout)
    cubes, squares = abs(float(np.sum(rest**3))) + 1.0, float(np.sum(rest**2)) + 1.0
    return squares**3 / cubes**2 < SYMMETRIC - 1e-6


def mover(
    gap: NDArray[np.float64], layout: Layout, level: float, *, unseen: bool = True
) -> tuple[float, float]:
    """How far the interval for the mean of `gap` (n,) reaches down and up.

    The two sides have the correlation of their documents (or clusters), taken as 0 where positive.
    With `unseen`, an end is never nearer than documents that were not drawn allow: the share of
    documents unlike all of those is at most ``1 - tail^(1/n)``, and each may differ by 1.
    """
    sides = (np.maximum(gap, 0.0), np.maximum(-gap, 0.0))
    (gain_down, gain_up), (loss_down, loss_up) = (
        _reach(side, layout, level, unseen=unseen) for side in sides
    )
    gains, losses = (unit_residuals(side, layout) for side in sides)
    scale = float(np.sqrt(np.square(gains).sum() * np.square(losses).sum()))
    correlation = min(0.0, float(gains @ losses) / scale) if scale > 0 else 0.0

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(x * x + y * y - 2.0 * correlation * x * y))

    return distance(gain_down, loss_up), distance(gain_up, loss_down)


def _reach(
    side: NDArray[np.float64], layout: Layout, level: float, *, unseen: bool
) -> tuple[float, float]:
    mean = float(side.mean())
    share = zero_spread_bound(layout, (1.0 + level) / 2.0)
    if not float(moments(side, layout).se) > 1e-12:  # all documents, or all clusters, are alike
        return mean * share, (1.0 - mean) * share * unseen
    low, high = effective_binomial(side, layout, level)
    return mean - low, max(high - mean, share * (1.0 - float(side.max())) if unseen else 0.0)


def skew_excess(gap: NDArray[np.float64], layout: Layout) -> Excess | None:
    """What MOVER adds to the squared reach of Student's t, below and above, at each level.

    None where t holds. The two together reach to the farther of both.
    """
    if layout.df <= 0 or not few_events(gap, layout):
        return None
    result = moments(gap, layout)

    def excess(level: float) -> tuple[float, float]:
        squared = (t_quantile((1.0 + level) / 2.0, result.df) * float(result.se)) ** 2
        down, up = mover(gap, layout, level)
        return max(down * down - squared, 0.0), max(up * up - squared, 0.0)

    return excess
