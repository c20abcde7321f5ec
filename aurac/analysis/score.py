"""The area under one rank-accuracy curve: `aurac.score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.analysis.gather import Row
from aurac.curves.area import quadrature_weights
from aurac.curves.checks import check_level
from aurac.curves.coerce import as_curve
from aurac.errors import CurveError
from aurac.stats.estimate import FRACTION, estimate

if TYPE_CHECKING:
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve


@dataclass(frozen=True)
class Score:
    """AURAC with its interval.

    Attributes:
        value: AURAC on the axis that was asked for, a fraction.
        low, high: Ends of the interval; None where only accuracies are known.
        linear: AURAC on the linear axis.
        weights: (K,) what each rank weighs in `value`.
        level: Coverage of the interval.
        curve: What was integrated.
    """

    value: float
    low: float | None
    high: float | None
    linear: float
    weights: tuple[float, ...]
    level: float
    curve: Curve = field(repr=False)

    def __float__(self) -> float:
        return self.value


def score(curve: Any, *, axis: Axis = "log2", level: float = 0.95) -> Score:
    """The area under a rank-accuracy curve (AURAC), with an interval where examples are known.

    For ranks ``r_1 < … < r_K`` with accuracies ``y_k`` in [0, 1] and x = log2 r or r,
    ``AURAC = Σ_k (x_{k+1} - x_k)(y_k + y_{k+1}) / 2 / (x_K - x_1)``. It is the mean of the
    examples' own areas, which carry the correlation between ranks.

    Args:
        curve: A `Curve`, a mapping ``rank -> accuracy`` or ``rank -> scores``, ``(ranks,
            accuracies)`` or a pandas Series (index: ranks); `aurac.readers.read_curves` makes
            curves of files. Rank 0 is the base and no part of the area.
        axis: "log2" or "linear" of the rank.
        level: Coverage of the interval.

    Raises:
        CurveError: Fewer than two ranks, a duplicate or invalid rank, a missing rank, a number
            that is not finite or outside [0, 1], ragged or unequal examples, or a metric such as
            perplexity.
        UsageError: A level that is no coverage.
    """
    check_level(level)
    known = as_curve(curve)
    if known.rolling:
        raise CurveError(f"{known.label} has {known.metric or 'no fractions'}, which has no AURAC.")
    for rank, reason in known.missing.items():
        raise CurveError(f"{known.label} has no accuracy at rank {rank} ({reason}).")
    weights, accuracy = quadrature_weights(known.ranks, axis), np.asarray(known.accuracy)
    low = high = None
    if known.outcomes is not None:
        row = Row("", "", "", (known,), known.cluster_codes)
        parts = row.parts(np.clip(weights @ known.outcomes, 0.0, 1.0)[None])
        _, low, high, _ = estimate(parts, FRACTION, level)
    return Score(
        value=float(weights @ accuracy),
        low=low,
        high=high,
        linear=float(quadrature_weights(known.ranks, "linear") @ accuracy),
        weights=tuple(map(float, weights)),
        level=level,
        curve=known,
    )
