"""One adapter: which interval belongs around a mean of per-document numbers.

Student's t where it holds; nearer to 0 and 1, where it does not, the bias-corrected and accelerated
bootstrap (BCa, Efron 1987); nearer still, since resampling a handful of documents covers too
little, on each side the wider of two: Clopper-Pearson at the effective number of documents (Korn
and Graubard 1998) and Student's t on the logit; the rule of three where all score alike.
docs/design/statistics-calibration.md has the coverage of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import Score, document_areas, edge_note, layout_of, score
from aurac.curves.checks import check_unit_interval
from aurac.errors import CurveError
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    edge_count,
    group_sums,
    is_constant,
    moments,
    t_estimate,
    t_quantile,
    unit_residuals,
    zero_spread_bound,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve

RESAMPLES = 9999
EDGE = 30.0  # documents' worth of score away from the end below which t is too short
FEW = 10.0  # and below which the bootstrap is


def interval(
    values: Any,
    *,
    rng: np.random.Generator,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean of per-document scores with the interval that fits them.

    Args:
        values: (n,) scores in [0, 1], such as `aurac.curves.area.document_areas`.
        rng: Used only where the bootstrap is (10 to 30 documents' worth of score from 0 or 1).
        clusters: n labels of what documents share; then units are clusters.
        strata: n labels of fixed groups; then the spread is within them.
        level: Coverage.

    Returns:
        The estimate, whose `method` names the interval. None in the place of ends and `se` where
        there is nothing to estimate them from.

    Raises:
        CurveError: Not a vector of finite numbers in [0, 1], or labels of another length.
    """
    array = as_vector(values)
    check_unit_interval(array, "document scores")
    check_level(level)
    layout = Layout.make(array.size, clusters, strata)
    return choose(array, layout, rng, level)


def choose(
    values: NDArray[np.float64], layout: Layout, rng: np.random.Generator, level: float
) -> Estimate:
    """As `interval`, on checked values (n,) and an encoded layout."""
    plain = t_estimate(values, layout, level)
    count = edge_count(values)
    if count >= EDGE or plain.se is None:
        return plain
    if count >= FEW:
        low, high = bca(values, layout, rng, level)
        method = f"BCa with {RESAMPLES} resamples, {layout.describe()}"
    else:
        low, high = few_events(values, layout, level)
        method = (
            "Clopper-Pearson at the effective number of documents or t on the logit, the wider on "
            f"each side, {layout.describe()}"
        )
    if count < 3:
        method += f", unreliable: {count:.1f} documents' worth of score away from the end"
    return replace(plain, low=max(0.0, low), high=min(1.0, high), method=method)


def score_interval(
    curve: Curve, *, rng: np.random.Generator, axis: str = "log2", level: float = 0.95
) -> Score:
    """`aurac.score` with the interval that fits: BCa near 0 and 1 where it has Student's t.

    Raises:
        CurveError: As `aurac.score`.
    """
    plain = score(curve, axis, level)
    if curve.outcomes is None:
        return plain
    layout = layout_of(curve)
    areas = {name: document_areas(curve, name) for name in ("log2", "linear")}
    note = edge_note(edge_count(areas[plain.axis]))
    return replace(
        plain,
        log2=choose(areas["log2"], layout, rng, level),
        linear=choose(areas["linear"], layout, rng, level),
        notes=() if note is None else (note,),
    )


def bca(
    values: NDArray[np.float64],
    layout: Layout,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Ends of the BCa interval for the mean of `values` (n,), which must not be constant.

    The bootstrap of a mean draws how often each *distinct* value occurs, a multinomial: the same
    distribution as drawing documents, and quick where most score alike. Clusters are drawn whole,
    strata each by themselves. The acceleration is the jackknife's, ``Σ u³ / (6 (Σ u²)^{3/2})`` over
    the units' residuals u.
    """
    from scipy.special import ndtr, ndtri

    means = bootstrap_means(values, layout, rng, resamples)
    observed = values.mean()
    below = np.count_nonzero(means < observed - 1e-12)
    equal = np.count_nonzero(np.abs(means - observed) <= 1e-12)
    # Kept off 0 and 1, where every resample lies on one side and the bias has no finite estimate.
    share = min(max((below + equal / 2) / resamples, 0.5 / resamples), 1 - 0.5 / resamples)
    bias = ndtri(share)
    rest = unit_residuals(values, layout)
    acceleration = np.sum(rest**3) / (6.0 * np.sum(rest**2) ** 1.5)
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    quantiles = ndtr(bias + z / np.maximum(1.0 - acceleration * z, 1e-6))
    low, high = np.quantile(means, quantiles)
    return float(low), float(high)


def few_events(values: NDArray[np.float64], layout: Layout, level: float) -> tuple[float, float]:
    """Ends for a mean with few documents' worth of score away from 0 or 1.

    Towards the end of the range the effective Clopper-Pearson interval reaches far enough. Away
    from it, it does not where the few documents that score otherwise happen to agree and the spread
    is taken too small; there ``logit(ā) ± t·se/(ā(1-ā))`` does.
    """
    low, high = effective_binomial(values, layout, level)
    found = moments(values, layout)
    mean = float(found.mean)
    half = t_quantile((1.0 + level) / 2.0, found.df) * float(found.se) / (mean * (1.0 - mean))
    centre = np.log(mean / (1.0 - mean))
    ends = 1.0 / (1.0 + np.exp(-(centre + np.array([-half, half]))))
    return min(low, float(ends[0])), max(high, float(ends[1]))


def effective_binomial(
    values: NDArray[np.float64], layout: Layout, level: float
) -> tuple[float, float]:
    """Clopper-Pearson ends for a mean ā in [0, 1] as if of ``n* = ā(1-ā)/se²`` 0/1 documents.

    n* is lowered by ``(t_{n-1} / t_df)²`` where clusters leave few degrees of freedom (Korn and
    Graubard 1998). Constant values have no n*: 0 and 1 get the exact one-sided ends.
    """
    from scipy.special import betaincinv

    tail = (1.0 - level) / 2.0
    if is_constant(values):
        share = zero_spread_bound(layout, 1.0 - tail)
        constant = float(values[0])
        return constant * (1.0 - share), constant + (1.0 - constant) * share
    found = moments(values, layout)
    mean = float(found.mean)
    ratio = t_quantile(1.0 - tail, max(layout.n - 1, 1)) / t_quantile(1.0 - tail, found.df)
    size = mean * (1.0 - mean) / float(found.se) ** 2 * ratio**2
    hits = mean * size
    low = betaincinv(hits, size - hits + 1.0, tail)
    high = betaincinv(hits + 1.0, size - hits, 1.0 - tail)
    return float(low), float(high)


def bootstrap_means(
    values: NDArray[np.float64], layout: Layout, rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Means of `resamples` bootstrap samples: (resamples,)."""
    sums, sizes, strata = _units(values, layout)
    total = np.zeros(resamples)
    for level in range(layout.levels):
        mine = strata == level
        weight = sizes[mine].sum() / layout.n
        total += weight * _resampled(sums[mine], sizes[mine], rng, resamples)
    return total


def _units(
    values: NDArray[np.float64], layout: Layout
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Sum, size and stratum of every independent unit."""
    strata = np.zeros(layout.n, dtype=np.intp) if layout.strata is None else layout.strata
    if layout.clusters is None:
        return values, np.ones(layout.n), strata
    own = np.zeros(layout.groups, dtype=np.intp)
    own[layout.clusters] = strata
    return group_sums(values, layout.clusters), layout.sizes(), own


def _resampled(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Bootstrap means of units with these sums and sizes: (resamples,)."""
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    block = max(1, 4_000_000 // kinds.shape[1])  # 32 MB of counts at a time
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(int(counts.sum()), counts / counts.sum(), size=size) @ kinds.T
        means.append(drawn[:, 0] / drawn[:, 1])
    return np.concatenate(means)


def as_vector(values: Any) -> NDArray[np.float64]:
    """(n,) float64 with at least one number.

    Raises:
        CurveError: It is not.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise CurveError("document scores that are not numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise CurveError(f"document scores of shape {array.shape}", expected="(documents,)")
    return array


def standard_error(
    values: Any, *, clusters: Sequence[Any] | None = None, strata: Sequence[Any] | None = None
) -> float | None:
    """Standard error of the mean of (n,) numbers; None from a single unit or constant numbers."""
    array = as_vector(values)
    found = moments(array, Layout.make(array.size, clusters, strata))
    return None if found.df <= 0 or is_constant(array) else float(found.se)
