"""The area under one rank-accuracy curve: `aurac.score`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.curves.checks import check_level
from aurac.curves.coerce import as_curve
from aurac.errors import CurveError

if TYPE_CHECKING:
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve


@dataclass(frozen=True)
class Score:
    """AURAC with its interval; as a number, and in ``f"{score:.1%}"``, its value.

    Attributes:
        value: AURAC on the axis that was asked for, a fraction.
        low, high: Ends of the interval; NaN where only accuracies are known.
        linear: AURAC on the linear axis.
        weights: (K,) what each rank weighs in `value`.
        level: Coverage of the interval.
        curve: What was integrated.
    """

    value: float
    low: float
    high: float
    linear: float
    weights: tuple[float, ...]
    level: float
    curve: Curve = field(repr=False)

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)


def score(curve: Any, *, axis: Axis = "log2", level: float = 0.95) -> Score:
    """The area under a rank-accuracy curve (AURAC), with an interval where examples are known.

    For ranks ``r_1 < … < r_K`` with accuracies ``y_k`` in [0, 1] and x = log2 r or r,
    ``AURAC = Σ_k (x_{k+1} - x_k)(y_k + y_{k+1}) / 2 / (x_K - x_1)``. It is the mean of the
    examples' own areas, which carry the correlation between ranks. Rank 0 is no part of it.

    Args:
        curve: A `Curve`; a mapping ``rank -> accuracy`` or ``rank -> scores``; ``(ranks,
            accuracies)``; a pandas Series indexed by rank; or a DataFrame, of one curve, with
            columns rank and accuracy, or rank, example and score, or one column indexed by rank.
        axis: "log2" or "linear" of the rank.
        level: Coverage of the interval.

    Raises:
        CurveError: Fewer than two ranks, a missing rank, numbers that are no fractions, unequal
            examples, a metric such as perplexity, or a DataFrame of several curves.
        UsageError: A level that is no coverage.
    """
    check_level(level)
    known = _of_table(curve) if "rank" in getattr(curve, "columns", ()) else as_curve(curve)
    if known.rolling:
        raise CurveError(f"{known.label} has {known.metric or 'no fractions'}, which has no AURAC.")
    for rank, reason in known.missing.items():
        raise CurveError(f"{known.label} has no accuracy at rank {rank} ({reason}).")
    weights, accuracy = quadrature_weights(known.ranks, axis), np.asarray(known.accuracy)
    low = high = math.nan
    if known.outcomes is not None:
        from aurac.stats.estimate import FRACTION, components, estimate

        areas = np.clip(weights @ known.outcomes, 0.0, 1.0)[None]
        _, low, high, _ = estimate(components(areas, known.cluster_codes), FRACTION, level)
    return Score(
        value=float(weights @ accuracy),
        low=low,
        high=high,
        linear=float(quadrature_weights(known.ranks, "linear") @ accuracy),
        weights=tuple(map(float, weights)),
        level=level,
        curve=known,
    )


def _of_table(frame: Any) -> Curve:
    """The one curve of a DataFrame."""
    from aurac.readers.table import curves_from_frame

    first, *others = curves_from_frame(frame)
    if others:
        labels = "; ".join(curve.label for curve in [first, *others][:4])
        raise CurveError(f"The DataFrame has several curves ({labels}): give one of them.")
    return first
