"""The area under a rank-accuracy curve: its quadrature weights and the documents' own areas.

The axis is the rank (log2 or linear), or a budget: the parameters or the bytes of the truncated
adapter, always log2. AURAC over a budget is another number than AURAC over rank and has its own
name. Adapters with other budgets are compared over the range that they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from aurac.curves.checks import check_ranks
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve

Axis = Literal["log2", "linear", "parameters", "bytes"]
Span = tuple[float, float]
AXES: Final[tuple[Axis, ...]] = ("log2", "linear")  # of the rank; every result has both
BUDGETS: Final[tuple[Axis, ...]] = ("parameters", "bytes")


def check_axis(axis: str) -> Axis:
    """The axis itself, if it is one of "log2", "linear", "parameters" and "bytes"."""
    for known in (*AXES, *BUDGETS):
        if axis == known:
            return known
    raise CurveError(
        f"axis {axis!r}",
        expected="'log2' or 'linear' of the rank, or a budget: 'parameters' or 'bytes'",
    )


def area_name(axis: str) -> str:
    """What the area over an axis is called; over a budget never as over the rank."""
    return f"AURAC over {axis}" if axis in BUDGETS else "AURAC"


def axis_title(axis: str) -> str:
    """The head of a column of areas: "AURAC log2", "AURAC over parameters"."""
    return area_name(axis) if axis in BUDGETS else f"AURAC {axis}"


def span_dict(span: Span | None) -> dict[str, float]:
    """The range of an area over a budget as JSON; nothing over ranks."""
    return {} if span is None else {"from": span[0], "to": span[1]}


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
    points = np.array(sorted(check_ranks(ranks)), dtype=np.float64)
    if points.size < 2:
        raise CurveError(
            f"an area needs two ranks and got {points.astype(int).tolist()}",
            expected="at least 2 different ranks",
        )
    if check_axis(axis) in BUDGETS:
        raise CurveError(
            f"weights of ranks over {axis}",
            expected="a curve that knows its parameters and bytes",
            fix=f"aurac.score(curve, axis={axis!r}).weights",
        )
    return _trapezoid(np.log2(points) if axis == "log2" else points)


def _trapezoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    widths: NDArray[np.float64] = np.diff(x) / (2.0 * (x[-1] - x[0]))
    weights = np.zeros(x.size)
    weights[:-1] += widths
    weights[1:] += widths
    return weights


def amounts(curve: Curve, axis: str) -> tuple[int, ...]:
    """The parameters or bytes at each of the K ranks, where known and different at all of them."""
    known = curve.parameters if axis == "parameters" else curve.sizes
    unknown = [rank for rank in curve.ranks if rank not in known]
    if unknown:
        raise CurveError(
            f"{curve.label} says nothing of its {axis} at rank {unknown[0]}",
            expected=f"the {axis} of the truncated adapter at every rank",
            fix=f"score its run folder, add a column named {axis} to a table, or give "
            f"Curve({'parameters' if axis == 'parameters' else 'sizes'}={{rank: number}})",
        )
    values = tuple(known[rank] for rank in curve.ranks)
    for at, value in enumerate(values):
        if value in values[:at]:
            ranks = curve.ranks[values.index(value)], curve.ranks[at]
            raise CurveError(
                f"{curve.label} has {value:,} {axis} at rank {ranks[0]} and at rank {ranks[1]}",
                expected=f"another number of {axis} at every rank",
                fix="leave one of these ranks out",
            )
    return values


def shared_span(curves: Sequence[Curve], axis: str) -> Span:
    """The range of a budget that all curves cover, in parameters or bytes; refused where empty."""
    ends = [(min(values), max(values)) for values in (amounts(curve, axis) for curve in curves)]
    low, high = max(end[0] for end in ends), min(end[1] for end in ends)
    if low < high:
        return low, high
    listed = "; ".join(
        f"{curve.label} {a:,} to {b:,}" for curve, (a, b) in zip(curves, ends, strict=True)
    )
    raise CurveError(
        f"no common range of {axis} ({listed})",
        expected=f"two ranks of each curve with different {axis}"
        if len(curves) == 1
        else "ranges that overlap",
        fix="evaluate ranks with budgets that the others have as well",
    )


def curve_weights(curve: Curve, axis: str, span: Span | None = None) -> NDArray[np.float64]:
    """What each of a curve's ranks weighs in its area over an axis, (K,), summing to 1.

    Over a budget the curve is linear between its points in x = log2 of the amount. The area over
    ``span``, divided by its width in x, is then a weighted mean of the accuracies: the trapezoidal
    rule at the ends of the span (by default those of the curve) and the points between them.
    """
    if axis in AXES:
        return quadrature_weights(curve.ranks, axis)
    x = np.log2(np.array(amounts(curve, axis), dtype=np.float64))
    low, high = np.log2(np.array(span or shared_span([curve], axis), dtype=np.float64))
    order = np.argsort(x)
    knots = np.array([low, *(at for at in x[order] if low < at < high), high])
    shares = [np.interp(knots, x[order], unit) for unit in np.eye(x.size)[:, order]]
    weights: NDArray[np.float64] = np.stack(shares) @ _trapezoid(knots)
    return weights


def document_areas(
    curve: Curve, axis: str = "log2", span: Span | None = None
) -> NDArray[np.float64]:
    """AURAC of every document, ``a_d = Σ_k w_k s[k, d]``: (n,) numbers in [0, 1]."""
    if curve.outcomes is None:
        raise CurveError(
            f"{curve.label} has no per-document outcomes",
            fix="give the outcomes (K, n), not only the mean accuracies",
        )
    areas: NDArray[np.float64] = curve_weights(curve, axis, span) @ curve.outcomes
    np.clip(areas, 0.0, 1.0, out=areas)  # rounding, not a wrong number
    return areas


def drops(curve: Curve) -> tuple[tuple[int, int, float], ...]:
    """Where accuracy falls from one rank to the next: ``(rank, next rank, size)``."""
    steps = zip(curve.ranks, curve.ranks[1:], curve.accuracy, curve.accuracy[1:], strict=False)
    return tuple((r, s, y - z) for r, s, y, z in steps if z < y)
