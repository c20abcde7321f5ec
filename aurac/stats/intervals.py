"""The interval around a mean of scores in [0, 1]: one for each number, wherever it is printed.

Student's t where many events decide; nearer to 0 and 1, on each side the wider of Clopper and
Pearson's interval at the effective number of documents (Korn and Graubard 1998) and of Student's t
on the logit; the rule of three where all score alike. Nothing is drawn at random.
docs/design/statistics-calibration.md has the coverage.

Student's t assumes that a mean difference is symmetric. Many small gains with few large losses are
not: where few of the large losses happen to be drawn, mean and spread are both too small. The gains
and the losses are therefore taken apart, each a mean in [0, 1] with Clopper-Pearson ends at its
effective number of events, and joined by the method of variance estimates recovery (MOVER: Newcombe
1998; Zou and Donner 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurac.curves.checks import check_unit_interval, refuse_masked
from aurac.errors import CurveError
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    is_constant,
    mean_se_df,
    show_df,
    t_quantile,
    unit_residuals,
    zero_spread_bound,
)

Reach = Callable[[float], tuple[float, float]]
"""Level → how far an interval goes, or what is added to its squared reach, below and above."""

# A hair below whole numbers, so that rounding does not decide where counts are whole.
FEW_EVENTS = 100.0 - 1e-6  # effective events from which Student's t holds
VERY_FEW = 3.0 - 1e-6  # and below which the reader is told
NEAR_AN_END = "Clopper-Pearson at the effective size or t on the logit"  # the method below it
ENOUGH = 30.0  # effective events of gains and of losses from which t holds
SYMMETRIC = 100.0  # events to which the skewness of the mean must correspond for t to hold
PSEUDO_EVENTS = 0.25  # weight of the largest possible variance, at accuracies near 0 and 1
ONE_DOCUMENT = "point value (a single document has no spread)"


def rule_of_three(constant: float, layout: Layout, level: float) -> Estimate:
    """The interval for documents that all scored `constant`: never a standard error of 0."""
    share = zero_spread_bound(layout, level)
    low, high = constant * (1.0 - share), constant + (1.0 - constant) * share
    return Estimate(constant, None, low, high, "rule of three (all documents score alike)", level)


def mean_interval(values: NDArray[np.float64], layout: Layout, level: float) -> Estimate:
    """The mean of `values` (n,), all in [0, 1], with the interval that fits them.

    Student's t from `FEW_EVENTS` effective events on, `edge_ends` below, the rule of three where
    all documents score alike. No ends where there is a single unit.
    """
    value, se, df = mean_se_df(values, layout)
    if df <= 0:
        units = f"{layout.groups} independent units in {layout.levels} strata"
        why = ONE_DOCUMENT if layout.n == 1 else f"point value ({units})"
        return Estimate(value, None, None, None, why, level)
    if is_constant(values):
        return rule_of_three(float(values[0]), layout, level)
    events = effective_events(value, se)
    if events < FEW_EVENTS:
        low, high = edge_ends(value, se, df, layout, level)
        method = f"{NEAR_AN_END}, {show_df(df)} df"
        if events < VERY_FEW:
            method += f", only {events:.1f} effective events"
    else:
        half = t_quantile((1.0 + level) / 2.0, df) * se
        low, high = max(0.0, value - half), min(1.0, value + half)
        method = f"t with {show_df(df)} df"
    return Estimate(value, se, low, high, f"{method}, {layout.describe()}", level, df)


def edge_excess(values: NDArray[np.float64], layout: Layout) -> Reach | None:
    """What few events add to the squared reach of Student's t, below and above, at each level.

    For `values` (n,) in [0, 1]: squared distances to the ends of `mean_interval` minus the square
    of t's, which may be negative; None where t holds.
    """
    mean, se, df = mean_se_df(values, layout)
    constant = is_constant(values)
    if df <= 0 or (not constant and effective_events(mean, se) >= FEW_EVENTS):
        return None

    def excess(level: float) -> tuple[float, float]:
        ends = mean_interval(values, layout, level)
        half = 0.0 if constant else t_quantile((1.0 + level) / 2.0, df) * se
        below, above = mean - (ends.low or 0.0), (1.0 if ends.high is None else ends.high) - mean
        return below**2 - half**2, above**2 - half**2

    return excess


def effective_events(mean: float, se: float) -> float:
    """How many equal events away from the nearer end of [0, 1] would vary as much.

    ``(min(ā, 1 - ā) / se)²``: n·ā/(1 - ā) for n independent 0/1 documents, fewer where the events
    fall into few clusters. A mean of so many events is about as skewed as theirs.
    """
    return (min(mean, 1.0 - mean) / se) ** 2 if se > 0 else float("inf")


def edge_ends(
    mean: float, se: float, df: float, layout: Layout, level: float
) -> tuple[float, float]:
    """Ends for a mean ā in (0, 1) that few events decide: on each side the wider of two.

    Clopper and Pearson's at the effective number of documents reaches far enough towards the end of
    the range, Student's t on the logit, ``logit(ā) ± t·se / (ā(1-ā))``, away from it.

    Where the few documents (or clusters) that score otherwise happen to agree, the spread is taken
    too small. The largest that it can be, that of 0/1 units, therefore has the weight of a quarter
    of an event, times |1 - 2ā|, since it is skewness that t misses. For independent 0/1 documents
    this changes nothing.
    """
    events, few = effective_events(mean, se), PSEUDO_EVENTS * abs(1.0 - 2.0 * mean)
    largest = mean * (1.0 - mean) / max(layout.effective_groups - 1.0, 0.5)
    variance = max(se * se, (events * se * se + few * largest) / (events + few))
    low, high = binomial_ends(mean, effective_size(mean, variance, df, layout, level), level)
    half = t_quantile((1.0 + level) / 2.0, df) * np.sqrt(variance) / (mean * (1.0 - mean))
    centre = np.log(mean / (1.0 - mean))
    below, above = 1.0 / (1.0 + np.exp(-(centre + np.array([-half, half]))))
    return min(low, float(below)), max(high, float(above))


def effective_size(mean: float, variance: float, df: float, layout: Layout, level: float) -> float:
    """How many independent 0/1 documents would show `variance` around `mean`; n where they are.

    ``1 + ā(1-ā) / variance · (t_{n-1} / t_df)²``, the last factor for the few degrees of freedom
    that clusters leave (Korn and Graubard 1998).
    """
    probability = (1.0 + level) / 2.0
    ratio = t_quantile(probability, max(layout.n - 1.0, 1.0)) / t_quantile(probability, df)
    return float(1.0 + mean * (1.0 - mean) / variance * ratio**2)


def binomial_ends(mean: float, size: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's ends (1934) for the share `mean` of `size` documents, whole or not."""
    from scipy.special import betaincinv

    tail, hits = (1.0 - level) / 2.0, mean * size
    low = betaincinv(hits, size - hits + 1.0, tail) if hits > 0 else 0.0
    high = betaincinv(hits + 1.0, size - hits, 1.0 - tail) if hits < size else 1.0
    return float(low), float(high)


def _events(values: NDArray[np.float64], layout: Layout) -> float:
    """``(mean / se)²`` of (n,) numbers: the count of equal events that would vary as much.

    0 where nothing happened, infinite where all documents are alike.
    """
    mean, se, _ = mean_se_df(values, layout)
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
    squared = np.square(rest)  # rest**3 is many times as slow as squared * rest
    cubes, squares = abs(float(np.sum(squared * rest))) + 1.0, float(np.sum(squared)) + 1.0
    return squares**3 / cubes**2 < SYMMETRIC - 1e-6


def mover(gap: NDArray[np.float64], layout: Layout, *, unseen: bool = True) -> Reach:
    """Level → how far the interval for the mean of `gap` (n,) reaches down and up.

    The two sides have the correlation of their documents (or clusters), taken as 0 where positive.
    With `unseen`, an end is never nearer than documents that were not drawn allow: the share of
    documents unlike all of those is at most ``1 - tail^(1/n)``, and each may differ by 1.
    """
    sides = (np.maximum(gap, 0.0), np.maximum(-gap, 0.0))
    gains, losses = (_side_reach(side, layout, unseen=unseen) for side in sides)
    first, second = (unit_residuals(side, layout) for side in sides)
    scale = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    alike = not scale > 1e-12  # all documents, or all clusters, of a side: what is left is rounding
    correlation = 0.0 if alike else min(0.0, float(first @ second) / scale)

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(x * x + y * y - 2.0 * correlation * x * y))

    def reach(level: float) -> tuple[float, float]:
        (gain_down, gain_up), (loss_down, loss_up) = gains(level), losses(level)
        return distance(gain_down, loss_up), distance(gain_up, loss_down)

    return reach


def _side_reach(side: NDArray[np.float64], layout: Layout, *, unseen: bool) -> Reach:
    """Level → how far the Clopper-Pearson interval of gains alone (n,) reaches down and up."""
    (mean, se, df), most = mean_se_df(side, layout), float(side.max())

    def reach(level: float) -> tuple[float, float]:
        share = zero_spread_bound(layout, (1.0 + level) / 2.0)
        if not se > 1e-12:  # all documents, or all clusters, are alike
            return mean * share, (1.0 - mean) * share * unseen
        low, high = binomial_ends(mean, effective_size(mean, se**2, df, layout, level), level)
        return mean - low, max(high - mean, share * (1.0 - most) if unseen else 0.0)

    return reach


def skew_excess(gap: NDArray[np.float64], layout: Layout, rest: float = 0.0) -> Reach | None:
    """What MOVER adds to the squared reach of Student's t, below and above, at each level.

    None where t holds. The two together reach to the farther of both, which grows with the level.
    `gap` are (n,) differences averaged over seeds, `rest` is the part of their variance that is
    counted with the seeds and not in t's reach.
    """
    if layout.df <= 0 or not few_events(gap, layout):
        return None
    (_, se, df), reach = mean_se_df(gap, layout), mover(gap, layout)
    se = float(np.sqrt(max(se * se - rest, 0.0))) if rest else se

    def excess(level: float) -> tuple[float, float]:
        squared = (t_quantile((1.0 + level) / 2.0, df) * se) ** 2
        down, up = reach(level)
        return max(down * down - squared, 0.0), max(up * up - squared, 0.0)

    return excess


def interval(
    values: Any,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean of per-document scores with the interval that fits: `aurac.stats.intervals`.

    Args:
        values: (n,) scores in [0, 1], such as `aurac.curves.area.document_areas`.
        clusters: n labels of what documents share; then units are clusters.
        strata: n labels of fixed groups; then the spread is within them.
        level: Coverage.

    Returns:
        The estimate, whose `method` names the interval. None in the place of ends and `se` where
        there is nothing to estimate them from.

    Raises:
        CurveError: Not a vector of finite numbers in [0, 1], or labels of another length.
    """
    refuse_masked(values, "document scores")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise CurveError("document scores that are not numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise CurveError(f"document scores of shape {array.shape}", expected="(documents,)")
    check_unit_interval(array, "document scores")
    check_level(level)
    return mean_interval(array, Layout.make(array.size, clusters, strata), level)
