"""How many examples and seeds a difference needs: the closed form behind `aurac plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtrit

from aurac.errors import UsageError
from aurac.stats.estimate import Components, Examples, further_examples, one_sided

MOST = 10_000_000  # examples


@dataclass(frozen=True)
class Assumptions:
    """What makes a paired difference of two adapters vary, and how it is tested.

    Attributes:
        flips: Share of examples whose score differs between the two, (0, 1].
        seeds: Training seeds of each recipe; 1 asks about the two checkpoints.
        seed_sd: Standard deviation over seeds of one recipe's accuracy.
        power: Probability of finding the difference.
        level: Coverage of the interval.
        tests: Comparisons in the table.
    """

    flips: float = 0.2
    seeds: int = 1
    seed_sd: float = 0.01
    power: float = 0.8
    level: float = 0.95
    tests: int = 1

    def __post_init__(self) -> None:
        for name in ("flips", "power", "level"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise UsageError(f"{name} {getattr(self, name):g} is no share above 0.")

    def surplus(self, difference: float, examples: int) -> float:
        """The lower end of the interval in the sample that a share `power` of samples beat."""
        k = further_examples(self.tests)
        n, alpha = examples + k, (1.0 - self.level) / self.tests
        mean = (examples * difference - k) / n
        squares = examples * (self.flips - difference**2) + k * examples / n * (1 + difference) ** 2
        terms = [(max(squares, 0.0) / (n * (n - 1)), n - 1)]
        if self.seeds > 1:
            terms.append((2 * self.seed_sd**2 / self.seeds, self.seeds - 1))
        reach = np.sqrt(sum(v * stdtrit(df, 1 - alpha / 2) ** 2 for v, df in terms))
        spread = np.sqrt(sum(v for v, _ in terms))
        return float(mean - reach - ndtri(self.power) * spread)

    @property
    def least(self) -> float:
        """The smallest difference that so many seeds show, however many examples there are."""
        alpha = (1.0 - self.level) / self.tests
        if self.seeds == 1:
            return 0.0
        reach = stdtrit(self.seeds - 1, 1 - alpha / 2) + ndtri(self.power)
        return float(np.sqrt(2 * self.seed_sd**2 / self.seeds) * reach)


def seeds_for(difference: float, assumed: Assumptions) -> int:
    """The fewest seeds of each recipe, from 3, that show a difference with enough examples."""
    return _smallest(lambda n: replace(assumed, seeds=n).least < difference) or MOST


def examples_for(difference: float, assumed: Assumptions) -> int | None:
    """Examples that a true difference needs to be found; None where no number of them does.

    Raises:
        UsageError: A difference that is no fraction, or larger than the share that flips.
    """
    if not 0.0 < difference <= assumed.flips:
        raise UsageError(
            f"A difference of {difference:g} needs at least that share of examples to flip, and "
            f"{assumed.flips:g} do."
        )
    return _smallest(lambda n: assumed.surplus(difference, n) >= 0.0)


def examples_for_margin(margin: float, cluster: int = 1) -> int:
    """The fewest examples, or clusters of so many, that show no loss to be within a margin."""

    def shown(n: int) -> bool:
        units = Examples(np.zeros(n), np.full(n, float(cluster)))
        return one_sided(Components(np.zeros(()), (units,)))[1] <= margin

    return _smallest(shown) or MOST


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of examples, from 3, that is enough, by doubling and halving."""
    high = 4
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
