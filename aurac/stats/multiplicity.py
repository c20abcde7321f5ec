"""Many comparisons at once: Holm's adjustment, and the best of several with its interval.

The largest of several estimates is too large on average, and its interval covers too seldom: with
30 equal adapters .68 to .79 in place of .95. Intervals that hold for all adapters at once hold for
any one of them, however it was picked (Bonferroni). Which adapters may be the best follows from the
paired comparisons themselves: all that none is significantly better than.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
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
    from aurac.stats.paired import Difference


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
    rejected the procedure stops, so those behind it were held to that step's level too. Equal p
    values have the level of the first of them, whichever order they are given in.
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    levels: list[float | None] = [None] * len(p_values)
    step, before, level = 0, -1.0, alpha
    for p, i in tests:
        here = alpha / (len(tests) - step)
        level = levels[i] = level if p == before else here
        if step < len(tests) - 1 and p <= here:
            step += 1
        before = p
    return levels


class HolmFamily:
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
        candidates: Places of the adapters that may be the best, the leader first: all that no other
            is significantly better than. The truly best one is among them with the confidence
            `level`.
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

    Every two adapters are compared (paired, Holm over all pairs). One is left out of the candidates
    where another is significantly better. So the truly best one is left out only if one of these
    verdicts is false. The leader's interval is made at ``1 - (1 - level)/m``, so that all m such
    intervals hold together; the lower ends behind `within` at ``1 - (1 - level)/(m - 1)``.

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
    matrices = [as_matrix(each) for each in scores]
    if not matrices:
        raise CurveError("no adapters", expected="at least one")
    documents = [matrix.shape[1] for matrix in matrices]
    if len(set(documents)) > 1:
        raise CurveError(
            f"{min(documents)} documents against {max(documents)}",
            expected="the same documents for all",
        )
    layout = layout or Layout(documents[0])
    order = sorted(range(len(matrices)), key=lambda at: -float(matrices[at].mean()))
    matrices = [matrices[at] for at in order]
    drawn = None if draws is None else [draws[at] for at in order]
    pairs = list(combinations(range(len(order)), 2))  # the first of each two has the larger mean
    tests = [_gap(matrices, layout, level, drawn, *pair) for pair in pairs]
    adjusted = zip(pairs, holm([test.p for test in tests]), strict=True)
    worse = {b for (_, b), p in adjusted if p is not None and p <= 1.0 - level}
    m, error, within = len(order), 1.0 - level, 0.0
    for at in range(1, m):
        low = _gap(matrices, layout, 1.0 - error / (m - 1), drawn, at, 0).estimate.low
        within = max(within, np.inf if low is None else -low)
    top = None if drawn is None else drawn[0]
    estimate = mean_of_seeds(matrices[0], layout, 1.0 - error / m, top)
    kept = tuple(place for at, place in enumerate(order) if at not in worse)
    return Best(order[0], estimate, kept, within if np.isfinite(within) else None, m, level)


def _gap(
    matrices: Sequence[NDArray[np.float64]],
    layout: Layout,
    level: float,
    draws: Sequence[NDArray[np.float64]] | None,
    a: int,
    b: int,
) -> Difference:
    """The paired difference b - a of two of the matrices."""
    gap = None if draws is None else draws[b] - draws[a]
    return compare(matrices[a], matrices[b], layout, level=level, draws=gap)
