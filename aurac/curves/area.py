"""The area under a rank-accuracy curve: its quadrature weights and the documents' own areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from aurac.curves.checks import check_ranks
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve

Axis = Literal["log2", "linear"]
AXES: tuple[Axis, ...] = ("log2", "linear")


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


def drops(curve: Curve) -> tuple[tuple[int, int, float], ...]:
    """Where accuracy falls from one rank to the next: ``(rank, next rank, size)``."""
    steps = zip(curve.ranks, curve.ranks[1:], curve.accuracy, curve.accuracy[1:], strict=False)
    return tuple((r, s, y - z) for r, s, y, z in steps if z < y)
