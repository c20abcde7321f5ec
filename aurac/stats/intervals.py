"""One adapter: the interval around a mean of per-document numbers, checked input first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.checks import check_unit_interval, refuse_masked
from aurac.errors import CurveError
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    is_constant,
    moments,
)
from aurac.stats.mean_interval import mean_interval
from aurac.stats.score import Score, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def interval(
    values: Any,
    *,
    rng: np.random.Generator | None = None,  # noqa: ARG001
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean of per-document scores with the interval that fits: `aurac.stats.mean_interval`.

    Args:
        values: (n,) scores in [0, 1], such as `aurac.curves.area.document_areas`.
        rng: Accepted and not used: nothing is drawn.
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
    return mean_interval(array, Layout.make(array.size, clusters, strata), level)


def score_interval(
    curve: Any,
    *,
    rng: np.random.Generator | None = None,  # noqa: ARG001
    axis: str = "log2",
    level: float = 0.95,
) -> Score:
    """`aurac.score`, which has the same interval; `rng` is accepted and not used."""
    return score(curve, axis, level)


def as_vector(values: Any) -> NDArray[np.float64]:
    """(n,) float64 with at least one number.

    Raises:
        CurveError: It is not.
    """
    refuse_masked(values, "document scores")
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
    result = moments(array, Layout.make(array.size, clusters, strata))
    return None if result.df <= 0 or is_constant(array) else float(result.se)
