"""Before any compute is spent: how many documents and seeds a question needs.

A formula gives a first guess; the answer is found by simulation with the procedures that the
question will be answered with, on outcomes drawn as assumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from aurac.arguments import as_fraction
from aurac.errors import CurveError
from aurac.stats.mean import Layout, t_quantile
from aurac.stats.noninferiority import Candidate, bound, seeds_needed
from aurac.stats.seeds import components, mean_of_seeds
from aurac.stats.spread import Outcomes, Spread

Question = Literal["difference", "non-inferiority", "interval"]
SEED = 0  # of the simulation, where no generator is given
LIMIT = 10_000_000
_TOO_MANY = f"more than {LIMIT:,} documents are needed"
SEARCHED, CHECKED = 400, 1600  # simulated studies at each step, and at the answer
_WIDTHS = 60, 240  # the same for the width of an interval over seeds, which varies less
_DRAWN = 2000  # documents drawn at most, and more where fewer than _CHANGED of them change
_CHANGED = 200
_FINE = 40  # or where a document counts for more than 1/40 of the difference
_CLOSE = 0.02  # distance of the simulated power from the promise that ends the search


@dataclass(frozen=True)
class Plan:
    """Documents needed for one number of seeds.

    Attributes:
        seeds: Training seeds in each recipe group; 1: the claim is about those checkpoints alone.
        documents: Documents needed; None where no number of them is enough.
        reason: Why not, where `documents` is None.
        most: Documents needed at the pilot's upper confidence limits; None without a pilot, or
            where no number of them is enough.
        power: Share of the simulated studies of that size that gave the answer.
        power_se: Monte-Carlo standard error of `power`.
        most_reason: Why `most` is None, where there is a pilot.
    """

    seeds: int
    documents: int | None
    reason: str | None = None
    most: int | None = None
    power: float | None = None
    power_se: float | None = None
    most_reason: str | None = None


def plan(
    margin: float,
    spread: Spread,
    *,
    seeds: Iterable[int] = (1, 3, 5),
    question: Question = "difference",
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    paired_seeds: bool = True,
    rng: np.random.Generator | None = None,
) -> list[Plan]:
    """Documents needed for each number of seeds.

    Where nothing was seen of documents × seeds they are enough for every share of it up to the one
    that the spread assumes.

    Args:
        margin: The difference to be found ("difference"), the margin for a rank that loses nothing
            ("non-inferiority"), or the interval's half-width ("interval"); a fraction.
        spread: From `spread_of_pilot`, `spread_of_flips`, or assumed.
        seeds: Training seeds in each recipe group to plan for.
        question: As of `aurac.plan`, which says more on the next four, too.
        alpha: Error rate.
        power: Chance of the answer.
        comparisons: Tests that share alpha.
        paired_seeds: Whether a difference is tested within each seed.
        rng: Of the simulation; the same numbers each time by default.

    Raises:
        CurveError: A number out of range, an unknown question, or a difference that is larger than
            the changes allow.
    """
    _check(margin, alpha, power, comparisons, question)
    counts = list(seeds)
    if any(count < 1 for count in counts) or not counts:
        raise CurveError(f"seeds {counts}", expected="whole numbers from 1 up")
    if question == "difference":
        spread = _possible(margin, spread)
    rng = np.random.default_rng(SEED) if rng is None else rng
    rows = []
    for count in counts:
        study = SimulatedStudy(
            margin, spread, count, question, alpha / comparisons, rng, paired_seeds
        )
        row = study.plan_for_any_share(power)
        if spread.upper is not None:
            most = replace(study, spread=spread.upper).plan_for_any_share(power, check=False)
            larger = None if most.documents is None else max(most.documents, row.documents or 0)
            row = replace(row, most=larger, most_reason=most.reason)
        rows.append(row)
    return rows


def _possible(margin: float, spread: Spread) -> Spread:
    """The spread, with at least as many changes as the difference needs where a pilot allows them.

    A difference that is larger than if every change were a gain is refused.
    """
    largest = spread.largest_effect
    if largest is None or largest >= margin:
        return spread
    upper = spread.upper.largest_effect if spread.upper else None
    if upper is not None and upper >= margin:
        return replace(spread, document=margin, rest=0.0, changed=margin)
    limit = f" (at most {upper:.2g} with 95 % confidence)" if upper is not None else ""
    raise CurveError(
        f"a difference of {margin:g} where {spread.changed:.3g} of the documents change",
        expected=f"at most {largest:.3g}, were every change a gain{limit}",
        fix="plan for a smaller difference",
    )


@dataclass(frozen=True)
class SimulatedStudy:
    """A study that asks one question with a number of seeds, to be simulated.

    `alpha` is the error rate of the single test; the rest is as of `plan`.
    """

    margin: float
    spread: Spread
    seeds: int
    question: Question
    alpha: float
    rng: np.random.Generator
    paired_seeds: bool = True

    def power(self, documents: int, repetitions: int) -> float:
        """Share of simulated studies of that size that give the answer.

        Beyond a few thousand documents fewer are drawn, with as much less variance.
        """
        spread = self.spread
        enough = _CHANGED / max(spread.changed or 1.0, 1e-3)
        drawn = min(documents, max(_DRAWN, int(enough), int(_FINE / self.margin)))
        if drawn < documents:
            scale = drawn / documents
            document, rest = spread.document * scale, spread.rest * scale
            spread = replace(spread, document=document, rest=rest, changed=None)
        effect = self.margin if self.question == "difference" else 0.0
        outcomes = Outcomes(spread, effect, self.seeds, level=self.question == "interval")
        answered = sum(self._answered(outcomes, drawn) for _ in range(repetitions))
        return answered / repetitions

    def _answered(self, outcomes: Outcomes, n: int) -> bool:
        if self.question == "interval":
            scores = outcomes.scores(self.rng, n)
            result = mean_of_seeds(scores, Layout(n), 1.0 - self.alpha)
            known = result.low is not None and result.high is not None
            return known and result.high - result.low <= 2.0 * self.margin  # type: ignore[operator]
        first, second = outcomes.pair(self.rng, n)
        if self.question == "difference":
            within = self.paired_seeds and self.seeds > 1
            groups, signs = ([second - first], [1]) if within else ([second, first], [1, -1])
            parts = components(groups, signs, Layout(n), signed=True)
            return parts.value > parts.reach(1.0 - self.alpha)[0]  # p <= alpha says the same
        smaller, full = (Candidate(scores, tuple(range(len(scores)))) for scores in (first, second))
        return bound(smaller, full, Layout(n), self.alpha).recipe < self.margin

    def plan_for_any_share(self, power: float, *, check: bool = True) -> Plan:
        """As `plan`, where up to `Spread.interaction` may be documents × seeds.

        With few seeds the largest share takes the most documents, with many seeds none of it does:
        the one that takes more is planned for, and the other checked.
        """
        if self.seeds == 1 or not self.spread.interaction:
            return self.plan(power, check=check)
        few = t_quantile(self._tail, self.seeds - 1.0) ** 2 / self.seeds > _normal(self._tail) ** 2
        shares = sorted((0.0, self.spread.interaction), reverse=few)
        worse, other = (replace(self, spread=self.spread.shared(share)) for share in shares)
        row = worse.plan(power, check=check)
        enough = row.documents is None
        if row.documents is not None:
            reached = other.power(row.documents, self._repetitions[1 if check else 0])
            enough = reached >= power - _CLOSE
        return row if enough else other.plan(power, check=check)

    def plan(self, power: float, *, check: bool = True) -> Plan:
        """The fewest documents with that power; `check` simulates it with more repetitions."""
        best = self.power(LIMIT, self._repetitions[0]) if self.seeds > 1 else 1.0
        least = seeds_needed(self.alpha) if self.question == "non-inferiority" else 0
        if best < power - _CLOSE and self.seeds < least:
            reason = f"a margin takes {least} seeds at least, whatever the number of documents"
            return Plan(self.seeds, None, reason)
        if best < power - _CLOSE and self.spread.seed <= 0:
            return Plan(self.seeds, None, _TOO_MANY)
        if best < power - _CLOSE:
            reason = (
                f"power {best:.2f} at most, whatever the number of documents, since the spread "
                "between seeds stays: train more seeds"
            )
            return Plan(self.seeds, None, reason)
        result = self._search(power)
        if result is None:
            return Plan(self.seeds, None, _TOO_MANY)
        if not check:
            return Plan(self.seeds, result)
        documents, reached = self._checked(result, power)
        error = float(np.sqrt(reached * (1.0 - reached) / self._repetitions[1]))
        return Plan(self.seeds, documents, power=reached, power_se=error)

    def _search(self, power: float) -> int | None:
        """Brackets the answer, from the formula outward, and halves the bracket (in logarithms).

        None where it is beyond `LIMIT`.
        """
        n, low, high = self.formula(power), 0, 0
        narrow = 1.01 if self.question == "interval" else 1.04  # the chance of a width is steep
        if n >= LIMIT and self.seeds == 1:
            return None
        reached = self.power(n, self._repetitions[0])
        if abs(reached - power) < _CLOSE:
            return n
        while True:
            low, high = (low, n) if reached >= power else (n, high)
            if low >= LIMIT:
                return None
            if high and (high <= low + 1 or high < narrow * low):
                return max(high, 2)
            if low and high:
                n = max(low + 1, min(high - 1, round(np.sqrt(low * high))))
            else:
                n = self._further(n, reached, power)
                n = high - 1 if high and n >= high else n
            if n < 2:
                return high
            reached = self.power(n, self._repetitions[0])

    def _further(self, n: int, reached: float, power: float) -> int:
        """The next number of documents to try: as the formula has it, a step beyond."""
        share = min(max(reached, 0.01), 0.99)
        critical = -_normal(self._tail)
        factor = (critical + _normal(power)) / max(critical + _normal(share), 0.2)
        beyond = 1.1 if reached < power else 1.0 / 1.1
        return int(min(LIMIT, np.ceil(n * min(max(factor**2 * beyond, 0.3), 5.0))))

    def _checked(self, n: int, power: float) -> tuple[int, float]:
        """The nearest number of documents whose power, simulated longer, is as promised."""
        tried: dict[int, float] = {}
        slope = (-_normal(self._tail) + _normal(power)) / 2.0
        for _ in range(5):
            if n in tried:
                break
            reached = tried[n] = self.power(n, self._repetitions[1])
            if abs(reached - power) < _CLOSE:
                break
            miss = (_normal(power) - _normal(min(max(reached, 0.01), 0.99))) / slope
            n = max(2, min(LIMIT, round(n * np.exp(np.clip(miss, -0.25, 0.25)))))
            low = max((m for m, share in tried.items() if share < power), default=0)
            high = min((m for m, share in tried.items() if share >= power), default=0)
            if low and high:  # the power may jump with the number of documents
                n = round(np.sqrt(low * high))
        enough = [m for m, share in tried.items() if share >= power - _CLOSE]
        documents = min(enough, key=lambda m: abs(tried[m] - power)) if enough else max(tried)
        return documents, tried[documents]

    @property
    def _repetitions(self) -> tuple[int, int]:
        return _WIDTHS if self.question == "interval" and self.seeds > 1 else (SEARCHED, CHECKED)

    @property
    def _tail(self) -> float:
        return self.alpha if self.question == "non-inferiority" else self.alpha / 2.0

    def formula(self, power: float) -> int:
        """Where the search begins: Student's t with the assumed variances, at most `LIMIT`."""
        chance = 0.5 if self.question == "interval" else power
        spread, seeds = self.spread, self.seeds
        variance = spread.document + spread.groups * spread.rest / seeds
        between = spread.groups * spread.seed / seeds if seeds > 1 else 0.0
        if self.question == "difference" and spread.changed is not None:
            variance -= min(self.margin**2, variance / 2.0)
        n, df = 30.0, 29.0
        for _ in range(20):
            quantiles = t_quantile(1.0 - self._tail, df) + t_quantile(chance, df)
            left = self.margin**2 - quantiles**2 * between
            if left <= 0.0:
                return 5_000
            n = min(LIMIT, max(2.0, quantiles**2 * variance / left))
            df = max(n - 1.0, 1.0)
        if self.question == "non-inferiority":  # no loss in n documents is not enough before
            n = max(n, np.log(self.alpha) / np.log1p(-self.margin))
        return max(2, int(np.ceil(n)))


def _normal(probability: float) -> float:
    """The standard normal quantile."""
    return t_quantile(probability, float("inf"))


def _check(margin: float, alpha: float, power: float, comparisons: int, question: str) -> None:
    if not 0.0 < margin < 1.0:
        fix = as_fraction(margin, 1.0)
        raise CurveError(f"margin {margin:g}", expected="a fraction such as 0.02", fix=fix)
    if not 0.0 < alpha < 0.5 or not 0.5 <= power < 1.0:
        raise CurveError(f"alpha {alpha:g} and power {power:g}", expected="such as 0.05 and 0.8")
    if comparisons < 1:
        raise CurveError(f"{comparisons} comparisons", expected="at least 1")
    if question not in ("difference", "non-inferiority", "interval"):
        raise CurveError(
            f"question {question!r}", expected="'difference', 'non-inferiority' or 'interval'"
        )
