"""The area under a rank-accuracy curve: its quadrature weights and the documents' own areas.

The axis is the rank (log2 or linear), or a budget: the parameters or the bytes of the truncated
adapter, always log2, under a name of its own. Adapters are compared at amounts that all of them
were measured at: on unequal grids even one curve would differ from itself where it bends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from aurac.arguments import several
from aurac.curves.checks import check_ranks
from aurac.curves.names import some
from aurac.errors import CurveError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.files import Json

Axis = Literal["log2", "linear", "parameters", "bytes"]
Span = tuple[float, ...]
"""The amounts of a budget that an area is over, ascending."""
AXES: Final[tuple[Axis, ...]] = ("log2", "linear")  # of the rank; every result has both
BUDGETS: Final[tuple[Axis, ...]] = ("parameters", "bytes")
ALIKE: Final = 1.05  # amounts up to this ratio are the same: what `energy` leaves unspent


def check_axis(axis: str) -> Axis:
    """The axis itself, if there is one of that name."""
    for known in (*AXES, *BUDGETS):
        if axis == known:
            return known
    raise CurveError(
        f"axis {axis!r}",
        expected="'log2' or 'linear' of the rank, or a budget: 'parameters' or 'bytes'",
    )


def check_budgets(axes: Any) -> tuple[str, ...]:
    """One or several budgets, each once; anything else is refused."""
    for axis in (given := several(axes)):
        if axis not in BUDGETS:
            raise UsageError(f"axis {axis!r}", expected=" or ".join(BUDGETS))
    return tuple(dict.fromkeys(given))


def area_name(axis: str) -> str:
    """What the area over an axis is called; over a budget never as over the rank."""
    return f"AURAC over {axis}" if axis in BUDGETS else "AURAC"


def axis_title(axis: str) -> str:
    """The head of a column of areas: "AURAC log2", "AURAC over parameters"."""
    return area_name(axis) if axis in BUDGETS else f"AURAC {axis}"


def span_dict(span: Span | None) -> dict[str, Json]:
    """The amounts of an area over a budget as JSON; nothing over ranks."""
    return {} if span is None else {"from": span[0], "to": span[-1], "amounts": list(span)}


def quadrature_weights(ranks: Sequence[int], axis: Axis = "log2") -> NDArray[np.float64]:
    """The weight of each rank in AURAC: the normalised trapezoidal rule.

    With x = r (linear) or log2 r, ``w_k = (x_{k+1} - x_{k-1}) / 2 / (x_K - x_1)`` inside and half
    an interval at both ends, so that ``AURAC = Σ_k w_k y_k`` (arXiv 2605.07850 logs both axes).

    Args:
        ranks: K >= 2 ascending ranks.
        axis: "log2" or "linear".

    Returns:
        (K,) weights, non-negative, summing to 1.

    Raises:
        CurveError: Fewer than two ranks, ranks that do not ascend, or that are no integers >= 1.
    """
    known = check_ranks(ranks)
    if len(known) < 2:
        expected = "at least 2 different ranks from 1 up: rank 0, the base model, is no part"
        raise CurveError(f"an area needs two ranks and got {known}", expected=expected)
    if known != sorted(known):
        raise CurveError(f"ranks {known}", expected=f"ascending ranks: {sorted(known)}")
    if check_axis(axis) in BUDGETS:
        raise CurveError(
            f"weights of ranks over {axis}",
            expected="a curve that knows its parameters and bytes",
            fix=f"aurac.score(curve, axis={axis!r}).weights",
        )
    x = np.array(known, dtype=np.float64)
    return _trapezoid(np.log2(x) if axis == "log2" else x)


def _trapezoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    widths: NDArray[np.float64] = np.diff(x) / (2.0 * (x[-1] - x[0]))
    weights = np.zeros(x.size)
    weights[:-1] += widths
    weights[1:] += widths
    return weights


def amounts(curve: Curve, axis: str) -> tuple[int, ...]:
    """The parameters or bytes at each of the K ranks, where known and different at all of them."""
    field = "parameters" if axis == "parameters" else "sizes"
    known = getattr(curve, field)
    ranks_of: dict[int, int] = {}
    for rank in curve.ranks:
        if rank not in known:
            raise CurveError(
                f"{curve.label} says nothing of its {axis} at rank {rank}",
                expected=f"the {axis} of the truncated adapter at every rank",
                fix=f"score its run folder, add a column named {axis} to a table, or give "
                f"Curve({field}={{rank: number}})",
            )
        if (other := ranks_of.setdefault(known[rank], rank)) != rank:
            raise CurveError(
                f"{curve.label} has {known[rank]:,} {axis} at rank {other} and at rank {rank}",
                expected=f"another number of {axis} at every rank",
                fix="leave one of these ranks out",
            )
    return tuple(ranks_of)


def shared_span(curves: Sequence[Curve], axis: str) -> Span:
    """The amounts that all curves were measured at, within `ALIKE`; of each the smallest.

    Raises:
        CurveError: A curve does not know its amounts, or there are fewer than two in common.
    """
    known = [sorted(amounts(curve, axis)) for curve in curves]
    first = min(known, key=lambda values: (len(values), values))  # whichever comes first
    matches = ([_match(amount, first, other) for other in known] for amount in first)
    shared = [min(same) for same in matches if all(same)]
    if len(shared) > 1:
        return tuple(map(float, shared))
    measured = zip(curves, known, strict=True)
    listed = "; ".join(f"{c.label} {some((f'{v:,}' for v in values), 8)}" for c, values in measured)
    needed = f"at least two at which all were measured, within {100 * ALIKE - 100:.0f} %"
    raise CurveError(
        f"too few amounts of {axis} in common ({listed})",
        expected=needed if len(curves) > 1 else f"two ranks of each curve with different {axis}",
        fix=f"evaluate each adapter at ranks with the same {axis}",
    )


def _match(amount: float, ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The nearest of their amounts, if it is alike and this one the nearest to it; else 0."""

    def apart(a: float, b: float) -> float:
        return max(a, b) / min(a, b)

    nearest = min(theirs, key=lambda other: apart(amount, other))
    back = min(ours, key=lambda own: apart(nearest, own))
    return nearest if back == amount and apart(amount, nearest) <= ALIKE else 0.0


def curve_weights(curve: Curve, axis: str, span: Span | None = None) -> NDArray[np.float64]:
    """What each of a curve's ranks weighs in its area over an axis, (K,), summing to 1.

    Over a budget x is log2 of the amounts of `span` (by default all of the curve); each has the
    accuracy of the rank with the nearest amount, and other ranks weigh nothing.
    """
    if axis in AXES:
        return quadrature_weights(curve.ranks, check_axis(axis))
    x = np.log2(np.array(amounts(curve, axis), dtype=np.float64))
    knots = np.log2(np.array(span or shared_span([curve], axis), dtype=np.float64))
    weights = np.zeros(x.size)
    weights[np.abs(x[:, None] - knots).argmin(axis=0)] = _trapezoid(knots)
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
