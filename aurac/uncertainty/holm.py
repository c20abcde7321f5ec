"""Many tests at once: Holm's step-down adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
