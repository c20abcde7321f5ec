"""Many comparisons at once: Holm's adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


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
