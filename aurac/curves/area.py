"""The area under a rank-accuracy curve: its quadrature weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from aurac.curves.checks import check_ranks
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Axis = Literal["log2", "linear"]


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
    if len(known) < 2 or known != sorted(known):
        raise CurveError(f"An area needs two ranks, ascending, and got {known}.")
    if axis not in ("log2", "linear"):
        raise CurveError(f"The axis {axis!r} is neither 'log2' nor 'linear'.")
    x = np.array(known, dtype=np.float64)
    x = np.log2(x) if axis == "log2" else x
    widths = np.diff(x) / (2.0 * (x[-1] - x[0]))
    weights = np.zeros(x.size)
    weights[:-1] += widths
    weights[1:] += widths
    return weights
