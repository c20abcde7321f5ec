"""Documents that are not independent: clusters (shared passages) and strata (fixed subjects)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError
from aurac.stats.intervals import as_vector, interval
from aurac.stats.mean import Layout, moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.stats.mean import Estimate


def clustered(values: Any, clusters: Sequence[Any], level: float = 0.95) -> Estimate:
    """The interval for a mean over documents that share passages: CR2 (`aurac.stats.mean`).

    Args:
        values: (n,) scores in [0, 1].
        clusters: n labels.
        level: Coverage.

    Raises:
        CurveError: Fewer than two clusters, or labels of another length.
    """
    result = interval(values, clusters=clusters, level=level)
    if result.low is None:
        raise CurveError("a single cluster", expected="at least 2, and many more to be of use")
    return result


def stratified(values: Any, strata: Sequence[Any], level: float = 0.95) -> Estimate:
    """The interval for a mean over documents of fixed groups, such as MMLU's subjects.

    The spread is taken within the groups, since another draw of the benchmark would hold the same
    groups: ``Σ_h (n_h/n)² s_h²/n_h``, with Satterthwaite's degrees of freedom (Cochran 1977).

    Args:
        values: (n,) scores in [0, 1].
        strata: n labels.
        level: Coverage.
    """
    return interval(values, strata=strata, level=level)


def design_effect(values: Any, clusters: Sequence[Any]) -> float:
    """How many times larger clustering makes the variance of the mean (Kish 1965).

    n divided by it is the number of independent documents that would say as much.

    Args:
        values: (n,) numbers that differ.
        clusters: n labels.

    Raises:
        CurveError: The numbers are all the same, or a single cluster.
    """
    array = as_vector(values)
    plain = moments(array, Layout(array.size))
    grouped = moments(array, Layout.make(array.size, clusters))
    if not plain.se > 0 or not np.isfinite(grouped.se):
        raise CurveError("documents without spread have no design effect")
    return float((grouped.se / plain.se) ** 2)
