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
    examples' own areas, which carry the correlation between ranks.

    Args:
        curve: A `Curve`; a mapping ``rank -> accuracy`` or ``rank -> scores``; ``(ranks,
            accuracies)``; a pandas Series indexed by rank; or a DataFrame, of one curve, with
            columns rank and accuracy, or rank, example and score, or one column indexed by rank.
            Rank 0 is the base and no part of the area.
        axis: "log2" or "linear" of the rank.
        level: Coverage of the interval.

    Raises:
        CurveError: Fewer than two ranks, a duplicate or invalid rank, a missing rank, a number
            that is not finite or outside [0, 1], ragged or unequal examples, a metric such as
            perplexity, or a DataFrame of several curves.
        UsageError: A level that is no coverage.
    """
    check_level(level)
    known = _of_frame(curve) if hasattr(curve, "columns") else as_curve(curve)
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


def _of_frame(frame: Any) -> Curve:
    """The one curve of a DataFrame."""
    from aurac.readers.table import curves_from_frame

    names = list(map(str, frame.columns))
    if "rank" not in names:
        if frame.index.name != "rank" or len(names) != 1:
            raise CurveError(
                f"A DataFrame with columns {', '.join(names[:6])} is no curve: give columns rank "
                "and accuracy, or rank, example and score, or one column indexed by rank."
            )
        return as_curve(frame.iloc[:, 0])
    curves = curves_from_frame(frame)
    if len(curves) > 1:
        labels = "; ".join(curve.label for curve in curves[:4])
        raise CurveError(f"The DataFrame has {len(curves)} curves ({labels}): give one of them.")
    return curves[0]
