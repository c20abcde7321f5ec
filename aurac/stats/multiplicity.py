"""Many tests at once: Holm's step-down adjustment."""

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


class Family:
    """A family of tests in which one p value may be tried in the place of another.

    Args:
        p_values: As of `holm`.
    """

    def __init__(self, p_values: Sequence[float | None]) -> None:
        known = [(p, i) for i, p in enumerate(p_values) if p is not None]
        order = sorted(known)
        self._sorted = np.array([p for p, _ in order])
        self._place = {i: k for k, (_, i) in enumerate(order)}

    def instead(self, at: int, p: float) -> float:
        """What `holm` gives the test `at` when its p value is `p` and the others are as they are.

        Raises:
            KeyError: There was no test at that place.
        """
        others = np.delete(self._sorted, self._place[at])
        smaller = others[: int(np.searchsorted(others, p))]
        steps = others.size + 1 - np.arange(smaller.size)
        highest = float(np.max(steps * smaller, initial=0.0))
        return min(1.0, max(highest, (others.size + 1 - smaller.size) * p))
