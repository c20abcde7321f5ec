"""How many examples and seeds find a difference between two adapters, by formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scipy.special import ndtri, stdtrit

from aurac.errors import UsageError

LIMIT = 10_000_000


@dataclass(frozen=True)
class Plan:
    """Examples needed with a number of seeds for each recipe; None where none suffice."""

    seeds: int
    examples: int | None


def plan(
    difference: float,
    *,
    flip_rate: float | None = None,
    sd: float | None = None,
    seeds: tuple[int, ...] = (1, 3, 5),
    seed_sd: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
) -> list[Plan]:
    """Examples needed to find a difference, for each number of seeds.

    The test is that of a report: Student's t over examples with one further example at -1, and over
    seeds, whose squared half-widths are added (Banerjee 1961). Seeds are taken to share all of the
    variance over examples, so that with several seeds fewer may do.

    Args:
        difference: The true difference of two AURACs, a fraction.
        flip_rate: Share of examples whose outcome differs between the two; or instead
        sd: Standard deviation over examples of the paired difference.
        seeds: Numbers of training seeds of each recipe.
        seed_sd: Standard deviation over seeds of one recipe's AURAC.
        alpha: Two-sided error rate of the family.
        power: Chance to find the difference.
        comparisons: Differences in the family.

    Raises:
        UsageError: A number out of range, or a difference larger than the flips allow.
    """
    if not 0 < difference < 1 or not 0 < alpha < 0.5 or not 0.5 <= power < 1 or comparisons < 1:
        raise UsageError("difference, alpha and power are fractions such as 0.02, 0.05 and 0.8")
    if (flip_rate is None) == (sd is None) or min(seeds) < 1:
        raise UsageError("a plan needs --flip-rate or --sd, and seeds of at least 1")
    square = flip_rate if flip_rate is not None else sd**2 + difference**2  # type: ignore[operator]
    variance = square - difference**2
    if flip_rate is not None and not difference <= flip_rate <= 1:
        raise UsageError(
            f"a difference of {difference:g} needs that share of the examples to flip at least"
        )
    tail = 1 - alpha / (2 * comparisons)

    def found(count: int, n: int) -> bool:
        rows = n + 1
        spread = ((n - 1) * variance + n / rows * (difference + 1) ** 2) / n
        over_examples = spread / rows
        over_seeds = 2 * seed_sd**2 / count if count > 1 else 0.0
        half = stdtrit(n, tail) ** 2 * over_examples
        half += stdtrit(count - 1, tail) ** 2 * over_seeds if over_seeds else 0.0
        reached = (n * difference - 1) / rows - math.sqrt(half)
        return bool(reached >= ndtri(power) * math.sqrt(variance / n + over_seeds))

    return [Plan(count, _fewest(partial(found, count))) for count in seeds]


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest n of at least 2 with `enough(n)`; None beyond `LIMIT`."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > LIMIT:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
