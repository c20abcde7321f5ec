"""Two adapters on the same documents: the paired difference and what could have been detected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurac.errors import CurveError
from aurac.stats.mean import Estimate, Layout, check_level, t_quantile
from aurac.stats.seeds import Components, Names, as_matrix, components, estimate_from

POWER = 0.8
_DRAWS = 1024  # of the variances behind a detectable difference
_PRIMES = np.array([2.0, 3.0, 5.0, 7.0, 11.0])


@dataclass(frozen=True)
class Difference:
    """A paired difference, b - a.

    Attributes:
        estimate: The difference of the means with its interval.
        p: Two-sided p value of no difference; None where there is no test.
        parts: The sources of variance, from which tasks are aggregated.
        alpha: Level at which p was tested: that of the interval, in a family Holm's step.
        power: Of `mde`.
    """

    estimate: Estimate
    p: float | None
    parts: Components
    alpha: float
    power: float = POWER

    def __repr__(self) -> str:
        return f"Difference(b − a: {self.estimate}, p {self.p})"

    @property
    def conditional(self) -> bool:
        """Whether the claim holds for these checkpoints alone (a single seed)."""
        return self.parts.conditional

    @cached_property
    def mde(self) -> float | None:
        """The smallest true difference that a test at `alpha` finds with `power`.

        None without a test or any spread, and where not even a difference of 1 is found so.
        """
        least = None if self.p is None else _detectable(self.parts, self.alpha, self.power)
        return None if least is None or least >= 1.0 else least


def difference(
    a: Any,
    b: Any,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
    power: float = POWER,
    paired_seeds: bool = False,
) -> Difference:
    """The mean difference b - a over the documents that both were evaluated on.

    Args:
        a: (n,) scores in [0, 1], or (S_a, n) for S_a training seeds.
        b: (n,) or (S_b, n), on the same documents in the same order.
        clusters: n labels of what documents share.
        strata: n labels of fixed groups.
        level: Coverage of the interval, and 1 - size of the test behind `mde`.
        power: Of `mde`.
        paired_seeds: Whether row s of a and of b are the same seed, with the same data in the same
            order; else the two are independent arms.

    Raises:
        CurveError: Unequal numbers of documents, or of seeds that are paired, or arrays of another
            shape.
    """
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[1] != second.shape[1]:
        raise CurveError(
            f"{first.shape[1]} documents against {second.shape[1]}",
            expected="the same documents for both",
        )
    if paired_seeds and len(first) != len(second):
        raise CurveError(f"{len(first)} seeds paired with {len(second)}", expected="as many")
    check_level(level)
    layout = Layout.make(first.shape[1], clusters, strata)
    matched = paired_seeds and len(first) > 1
    return compare(first, second, layout, level=level, power=power, matched=matched)


def compare(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    layout: Layout,
    *,
    level: float,
    power: float = POWER,
    names: tuple[Names, Names] | None = None,
    draws: NDArray[np.float64] | None = None,
    matched: bool = False,
) -> Difference:
    """As `difference`, on checked (S, n) arrays and an encoded layout.

    `names` are the seeds of a and of b, by which tasks are matched in an aggregate; `draws` are the
    (N, n) differences under each draw of the few-shot examples. With `matched`, row s of a and of b
    belong together, so that the difference is taken within each.
    """
    groups, signs = ([b - a], [1]) if matched else ([b, a], [1, -1])
    labels = None if names is None else names[::-1][: len(groups)]
    parts = components(groups, signs, layout, names=labels, signed=True, draws=draws)
    parts = replace(parts, paired=matched)
    estimate = estimate_from(parts, level, layout.describe(), (-1.0, 1.0))
    p = None if estimate.low is None else parts.p_value()
    return Difference(estimate, p, parts, 1.0 - level, power)


def _detectable(parts: Components, alpha: float, power: float) -> float | None:
    """`Difference.mde`; None where no spread was seen.

    Where the critical value varies with the estimated variances of few seeds, its distribution is
    that of independent χ²/df, drawn evenly; the result is divided by what such an estimate falls
    short of the truth on average.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr

    se, terms = parts.se, sorted((v, df) for v, df in parts.terms() if v > 0)
    if not se > 1e-12:  # rounding
        return None
    if parts.excess is None and all(s.seeds == 1 for s in (*parts.groups, *parts.draws)):
        return detectable(se, parts.document_df, 1.0 - alpha, power)
    squared = np.array([v * t_quantile(alpha / 2.0, df) ** 2 for v, df in terms])
    steps = np.outer(np.arange(_DRAWS), np.sqrt(_PRIMES[: len(terms)]))  # Kronecker's sequence
    ratios = [
        chdtri(df, share) / df if df < 1e5 else np.ones(_DRAWS)
        for (_, df), share in zip(terms, ((steps + 0.5) % 1.0).T, strict=True)
    ]
    drawn = squared @ np.array(ratios)
    # The end that looks towards 0 (the farther one for no difference) must clear it.
    down, up = (0.0, 0.0) if parts.excess is None else parts.excess(1.0 - alpha)
    towards = max(down, up) if abs(parts.value) <= 1e-12 else (down if parts.value > 0 else up)
    reach = np.sqrt(np.maximum(drawn + towards, 0.0))

    def missing(difference: float) -> float:
        return float(ndtr((difference - reach) / se).mean()) - power

    most = float(reach.max()) + 8.0 * se
    if not np.isfinite(most):
        return None
    short = float(np.sqrt(drawn).mean() / np.sqrt(squared.sum()))
    return float(brentq(missing, 0.0, most)) / short


def detectable(se: float, df: float, level: float = 0.95, power: float = POWER) -> float:
    """The smallest difference that a two-sided t test finds with `power`.

    ``ncp · se``, with the non-centrality at which a non-central t exceeds the critical value with
    that probability; for many documents ``(1.96 + 0.84) · se``.
    """
    from scipy.special import nctdtrinc

    critical = t_quantile((1 + level) / 2, df)
    normal = critical + t_quantile(power, df)
    if not 1.0 <= df < 1e5:  # the special function does not come back from a fraction of a df
        return normal * se
    exact = float(nctdtrinc(df, 1.0 - power, critical))
    # It gives up on some few degrees of freedom; the sum is close there.
    return (exact if np.isfinite(exact) and abs(exact / normal - 1) < 0.5 else normal) * se
