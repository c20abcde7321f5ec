"""The area under one rank-accuracy curve: `aurac.score`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aurac.analysis.gather import Row
from aurac.analysis.points import ends
from aurac.curves.area import quadrature_weights
from aurac.curves.checks import check_level
from aurac.curves.numbers import interval
from aurac.curves.question import Key
from aurac.errors import CurveError
from aurac.readers import curves_of

if TYPE_CHECKING:
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve


class Score(float):
    """AURAC, a float, with its interval; as a text ``46.9 % [37.5, 56.3]``.

    Attributes:
        low, high: Ends of the interval; NaN where only accuracies are known.
        linear: AURAC on the linear axis.
        weights: (K,) what each rank weighs.
        level: Coverage of the interval.
        curve: What was integrated.
    """

    low: float
    high: float
    linear: float
    weights: tuple[float, ...]
    level: float
    curve: Curve

    @property
    def value(self) -> float:
        """AURAC on the axis that was asked for, a fraction."""
        return float(self)

    def __str__(self) -> str:
        low, high = (None if math.isnan(end) else end for end in (self.low, self.high))
        return interval(float(self), low, high, " %")

    def __repr__(self) -> str:
        return f"Score({self})"

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else str(self)


def score(curve: Any, *, axis: Axis = "log2", level: float = 0.95) -> Score:
    """The area under a rank-accuracy curve (AURAC), with an interval where examples are known.

    For ranks ``r_1 < … < r_K`` with accuracies ``y_k`` in [0, 1] and x = log2 r or r,
    ``AURAC = Σ_k (x_{k+1} - x_k)(y_k + y_{k+1}) / 2 / (x_K - x_1)``. It is the mean of the
    examples' own areas, which carry the correlation between ranks. Rank 0 is no part of it.

    Args:
        curve: A `Curve`; a mapping ``rank -> accuracy`` or ``rank -> scores``; a DataFrame with
            columns rank and accuracy, or rank, example and score; a path or a run, of one curve.
        axis: "log2" or "linear" of the rank.
        level: Coverage of the interval.

    Raises:
        CurveError: Fewer than two ranks, a missing rank, numbers that are no fractions, unequal
            examples, a metric such as perplexity, or several curves.
        UsageError: A level that is no coverage.
    """
    check_level(level)
    known, *others = curves_of(curve) or curves_of({})
    if others:
        labels = "; ".join(each.label for each in [known, *others][:4])
        raise CurveError(f"There are several curves ({labels}): give one of them.")
    if known.rolling:
        raise CurveError(f"{known.label} has {known.metric or 'no fractions'}, which has no AURAC.")
    for rank, reason in known.missing.items():
        raise CurveError(f"{known.label} has no accuracy at rank {rank} ({reason}).")
    row = Row(Key("adapter"), "task", (known,), known.cluster_codes)
    found = Score(row.area(known.ranks, axis))
    found.curve, found.level, found.linear = known, level, row.area(known.ranks, "linear")
    found.weights = tuple(quadrature_weights(known.ranks, axis).tolist())
    found.low = found.high = math.nan
    if (areas := row.areas(known.ranks, axis)) is not None:
        vars(found).update(ends(row.parts(areas), level))
    return found
