"""Many comparisons at once: Holm's adjustment, and the best of several with its interval.

The largest of several estimates is too large on average, and its interval covers too seldom: with
30 equal adapters .68 to .79 in place of .95. Intervals that hold for all adapters at once hold for
any one of them, however it was picked (Bonferroni). Which adapters may be the best follows from
one-sided comparisons with the leader (multiple comparisons with the best: Hsu 1981, 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError
from aurac.stats.mean import Layout, check_level
from aurac.stats.paired import compare
from aurac.stats.seeds import as_matrix, mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.stats.mean import Estimate


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values that keep the family-wise error rate (Holm 1979).

    Sorted ascending, the i-th of m is multiplied by m - i + 1, then made monotone and cut at 1.

    Args:
        p_values: One for each test of the family; None where there was no test, which then does
            not count.

    Returns:
        As many, in the same order, None where None was given.
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, i) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - step) * p))
        adjusted[i] = highest
    return adjusted


def holm_levels(p_values: Sequence[float | None], alpha: float) -> list[float | None]:
    """The level at which Holm's procedure tested each p value; None where None was given.

    Of m tests the one at step i is tested at ``alpha / (m - i)``. At the first that is not
    rejected the procedure stops, so those behind it were held to that step's level too.
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    levels: list[float | None] = [None] * len(p_values)
    step = 0
    for p, i in tests:
        level = levels[i] = alpha / (len(tests) - step)
        if step < len(tests) - 1 and p <= level:
            step += 1
    return levels


class Family:
    """A family of tests in which one p value may be tried in the place of another."""

    def __init__(self, p_values: Sequence[float | None]) -> None:
        order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
        self._sorted = np.array([p for p, _ in order])
        self._place = {i: k for k, (_, i) in enumerate(order)}

    def instead(self, at: int, p: float) -> float:
        """What `holm` gives the test `at` when its p value is `p`, the others as they are."""
        others = np.delete(self._sorted, self._place[at])
        smaller = others[: int(np.searchsorted(others, p))]
        steps = others.size + 1 - np.arange(smaller.size)
        highest = float(np.max(steps * smaller, initial=0.0))
        return min(1.0, max(highest, (others.size + 1 - smaller.size) * p))


@dataclass(frozen=True)
class Best:
    """What may be said of the adapter with the largest mean.

    Attributes:
        leader: Its place among the adapters.
        estimate: Its mean, with an interval that holds although it was picked as the largest.
        candidates: Places of the adapters that may be the best, the leader first; the truly best
            one is among them with the confidence `level`.
        within: Upper bound on how much better than the leader any other adapter is, at `level`;
            None where a comparison has no interval.
        compared: Number of adapters.
        level: Confidence of each of the three statements.
    """

    leader: int
    estimate: Estimate
    candidates: tuple[int, ...]
    within: float | None
    compared: int
    level: float


def best(
    scores: Sequence[Any],
    layout: Layout | None = None,
    level: float = 0.95,
    draws: Sequence[NDArray[np.float64]] | None = None,
) -> Best:
    """The adapter with the largest mean, allowing for its having been picked.

    With m adapters the leader's interval is made at ``1 - (1 - level)/m``, so that all m such
    intervals hold together. Adapter j is left out of the candidates where the interval of
    leader - j, at ``1 - (1 - level)/(m - 1)``, lies above 0: the truly best adapter is left out
    only if one of the m - 1 comparisons with it errs. The largest of the negated lower ends is
    `within`. (One-sided bounds would do; two-sided intervals keep the answer in line with the
    paired comparisons.)

    Args:
        scores: m arrays, (n,) scores in [0, 1] or (S, n) for S training seeds, on the same
            documents.
        layout: The documents' clusters and strata; independent documents by default.
        level: Confidence.
        draws: m arrays, (N, n) scores under each draw of the few-shot examples.

    Raises:
        CurveError: No adapters, or unequal numbers of documents.
    """
    check_level(level)
    matrices = [as_matrix(one) for one in scores]
    if not matrices:
        raise CurveError("no adapters", expected="at least one")
    documents = [matrix.shape[1] for matrix in matrices]
    if len(set(documents)) > 1:
        raise CurveError(
            f"{min(documents)} documents against {max(documents)}",
            expected="the same documents for all",
        )
    layout = layout or Layout(documents[0])
    means = [float(matrix.mean()) for matrix in matrices]
    order = sorted(range(len(means)), key=lambda at: -means[at])
    leader, error = order[0], 1.0 - level
    each = 1.0 - error / max(len(means) - 1, 1)
    lows = {}
    for at in order[1:]:
        gap = None if draws is None else draws[leader] - draws[at]
        pair = compare(matrices[at], matrices[leader], layout, level=each, draws=gap)
        lows[at] = -np.inf if pair.estimate.low is None else pair.estimate.low
    within = max([0.0, *(-low for low in lows.values())])
    top = None if draws is None else draws[leader]
    return Best(
        leader=leader,
        estimate=mean_of_seeds(matrices[leader], layout, 1.0 - error / len(means), top),
        candidates=(leader, *(at for at, low in lows.items() if low <= 0.0)),
        within=within if np.isfinite(within) else None,
        compared=len(means),
        level=level,
    )
