"""AURAC: the normalised area under a rank-accuracy curve, and its quadrature weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aurac.curves.checks import check_ranks
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.mean_interval import VERY_FEW, effective_events, mean_interval
from aurac.stats.mean import NO_DOCUMENTS, Estimate, Layout, check_level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Axis = Literal["log2", "linear"]
AXES: tuple[Axis, ...] = ("log2", "linear")
RECORDED_LEVEL = 0.95  # of the intervals in results.json


@dataclass(frozen=True)
class Score:
    """AURAC of one curve on both axes, with what is needed to read it.

    Attributes:
        log2: The area over log2 rank, every doubling of the rank weighing alike.
        linear: The area over the rank itself.
        mean: The plain mean over the ranks.
        ranks: The K ranks that were integrated.
        accuracy: Their accuracies, fractions.
        weights: For each axis the K quadrature weights, summing to 1.
        n_docs: Documents behind the interval; None for point values.
        drops: ``(rank, next rank, size)`` wherever accuracy falls from one rank to the next.
        axis: The headline axis, which `value` and ``float()`` give.
        notes: What a reader should know about the interval.
    """

    log2: Estimate
    linear: Estimate
    mean: float
    ranks: tuple[int, ...]
    accuracy: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    n_docs: int | None
    drops: tuple[tuple[int, int, float], ...]
    axis: Axis = "log2"
    notes: tuple[str, ...] = field(default=())

    @property
    def estimate(self) -> Estimate:
        """The estimate on the headline axis."""
        return self.log2 if self.axis == "log2" else self.linear

    @property
    def value(self) -> float:
        """AURAC on the headline axis, a fraction."""
        return self.estimate.value

    def __float__(self) -> float:
        return self.value

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from aurac.report.notebook import score_html

        return score_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The ``score`` object of a result file."""
        return {"log2": self.log2.to_dict(), "linear": self.linear.to_dict(), "mean": self.mean}


def check_axis(axis: str) -> Axis:
    """The axis itself, if it is one.

    Raises:
        CurveError: It is neither "log2" nor "linear".
    """
    if axis == "log2":
        return "log2"
    if axis == "linear":
        return "linear"
    raise CurveError(f"axis {axis!r}", expected="'log2' or 'linear'")


def quadrature_weights(ranks: Iterable[int], axis: str = "log2") -> NDArray[np.float64]:
    """The weight of each rank in AURAC: the normalised trapezoidal rule.

    With x = r (linear) or log2 r, ``w_k = (x_{k+1} - x_{k-1}) / 2 / (x_K - x_1)`` inside and half
    an interval at both ends, so that ``AURAC = Σ_k w_k y_k`` (arXiv 2605.07850 logs both axes).

    Args:
        ranks: K >= 2 different ranks; their order does not matter.
        axis: "log2" or "linear".

    Returns:
        (K,) weights in ascending order of rank, non-negative, summing to 1.

    Raises:
        CurveError: Fewer than two ranks, a duplicate, or one that is not an integer >= 1.
    """
    points = np.sort(np.asarray(check_ranks(ranks), dtype=np.float64))
    if points.size < 2:
        shown = [int(r) for r in points]
        raise CurveError(
            f"an area needs two ranks and got {shown}", expected="at least 2 different ranks"
        )
    x = np.log2(points) if check_axis(axis) == "log2" else points
    widths: NDArray[np.float64] = np.diff(x) / (2.0 * (x[-1] - x[0]))
    weights = np.zeros(points.size)
    weights[:-1] += widths
    weights[1:] += widths
    return weights


def document_areas(curve: Curve, axis: str = "log2") -> NDArray[np.float64]:
    """AURAC of every document, ``a_d = Σ_k w_k s[k, d]``: (n,) numbers in [0, 1].

    Raises:
        CurveError: The curve has no per-document outcomes.
    """
    if curve.outcomes is None:
        raise CurveError(
            f"{curve.label} has no per-document outcomes",
            fix="give the outcomes (K, n), not only the mean accuracies",
        )
    areas: NDArray[np.float64] = quadrature_weights(curve.ranks, axis) @ curve.outcomes
    np.clip(areas, 0.0, 1.0, out=areas)  # rounding, not a wrong number
    return areas


def layout_of(curve: Curve) -> Layout:
    """How the curve's documents hang together."""
    n = curve.n_docs
    if n is None:
        raise CurveError(f"{curve.label} has no per-document outcomes")
    return Layout.make(n, curve.clusters, curve.strata)


def drops(curve: Curve) -> tuple[tuple[int, int, float], ...]:
    """Where accuracy falls from one rank to the next: ``(rank, next rank, size)``."""
    steps = zip(curve.ranks, curve.ranks[1:], curve.accuracy, curve.accuracy[1:], strict=False)
    return tuple((r, s, y - z) for r, s, y, z in steps if z < y)


def score(curve: Any, axis: str = "log2", level: float = 0.95) -> Score:
    """The area under a rank-accuracy curve (AURAC), with an interval where documents are known.

    For ranks ``r_1 < … < r_K`` with accuracies ``y_k`` in [0, 1] and x = log2 r or r,
    ``AURAC = Σ_k (x_{k+1} - x_k)(y_k + y_{k+1}) / 2 / (x_K - x_1)``. With per-document outcomes the
    interval is that of the documents' own areas, which carry the correlation between ranks
    (`aurac.mean_interval`: Student's t, near 0 and 1 wider). A row of ``results.json`` keeps the
    95 % interval that it holds. Rank 0, the base, is no part.

    Args:
        curve: A `Curve`, a mapping ``rank -> accuracy`` or ``rank -> per-document scores``, a
            pandas Series (index: ranks), a DataFrame (columns ``rank, accuracy`` or ``rank,
            doc_id, score``), or a row of ``results.json``.
        axis: The headline, "log2" or "linear"; both are computed.
        level: Coverage of the intervals.

    Raises:
        CurveError: Fewer than two ranks, a duplicate or invalid rank, a missing rank, a number
            that is not finite or outside [0, 1], ragged or unequal documents.
    """
    headline = check_axis(axis)
    check_level(level)
    points = Curve.coerce(curve)
    if points.missing:
        rank, reason = next(iter(points.missing.items()))
        raise CurveError(
            f"{points.label} has no accuracy at rank {rank} ({reason})",
            fix="evaluate it, or integrate the ranks that exist with curve.at(curve.ranks)",
        )
    weights = {name: quadrature_weights(points.ranks, name) for name in AXES}
    estimates = {name: _estimate(points, name, weights[name], level) for name in AXES}
    estimates |= _recorded(curve, estimates, level)
    return Score(
        log2=estimates["log2"],
        linear=estimates["linear"],
        mean=float(np.mean(points.accuracy)),
        ranks=points.ranks,
        accuracy=points.accuracy,
        weights=MappingProxyType({k: tuple(map(float, w)) for k, w in weights.items()}),
        n_docs=points.n_docs,
        drops=drops(points),
        axis=headline,
        notes=score_notes(estimates[headline]),
    )


def _estimate(curve: Curve, axis: Axis, weights: NDArray[np.float64], level: float) -> Estimate:
    if curve.outcomes is None:
        value = float(weights @ np.asarray(curve.accuracy))
        return Estimate(value, None, None, None, NO_DOCUMENTS, level)
    return mean_interval(document_areas(curve, axis), layout_of(curve), level)


def _recorded(given: Any, computed: Mapping[Axis, Estimate], level: float) -> dict[Axis, Estimate]:
    """The intervals of a row of ``results.json``, which has no outcomes to compute them from."""
    recorded = given.get("score") if isinstance(given, Mapping) else None
    if not isinstance(recorded, Mapping) or abs(level - RECORDED_LEVEL) > 1e-9:
        return {}
    found: dict[Axis, Estimate] = {}
    for axis, plain in computed.items():
        row = recorded.get(axis) or {}
        same = row.get("value") is not None and abs(row["value"] - plain.value) < 1e-6
        if same and row.get("low") is not None and row.get("high") is not None:
            method = str(given.get("score_method") or "as recorded")
            found[axis] = Estimate(plain.value, row.get("se"), row["low"], row["high"], method)
    return found


def score_notes(estimate: Estimate) -> tuple[str, ...]:
    """What a reader should know about an interval; nothing where it is an ordinary one."""
    if estimate.low is None or estimate.high is None:
        if estimate.method == NO_DOCUMENTS:
            return ("no interval: it needs per-document outcomes, mean accuracies do not carry it",)
        return ()
    events = effective_events(estimate.value, estimate.se or 0.0)
    if events >= VERY_FEW:
        return ()
    return (f"only {events:.1f} effective events away from 0 or 1 decide the interval",)
