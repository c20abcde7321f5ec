"""Before any compute is spent: how many documents and seeds a question needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from aurac.errors import CurveError
from aurac.stats.mean import t_quantile
from aurac.stats.seeds import satterthwaite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.stats.seeds import Components

Question = Literal["difference", "certificate", "interval"]
LIMIT = 10_000_000


@dataclass(frozen=True)
class Spread:
    """What makes a paired difference (or one adapter's mean) vary.

    Attributes:
        document: Variance over documents of the seeds' average with many seeds.
        seed: Variance over training seeds of one arm's true mean.
        rest: Variance of a document's score that changes with the seed (documents × seeds).
        arms: 2 for a difference, 1 for one adapter.
        source: Where the numbers come from.
    """

    document: float
    seed: float = 0.0
    rest: float = 0.0
    arms: int = 2
    source: str = "assumed"


@dataclass(frozen=True)
class Plan:
    """Documents needed for one number of seeds.

    Attributes:
        seeds: Training seeds in each arm; 1 means the claim is about those checkpoints alone.
        documents: Documents needed; None where no number of them is enough.
        reason: Why not, where `documents` is None.
    """

    seeds: int
    documents: int | None
    reason: str | None = None


def spread_of_flips(flip_rate: float, shift: float = 0.0) -> Spread:
    """The spread of a paired 0/1 difference when `flip_rate` of the documents change.

    ``Var(D) = flip_rate - shift²``.

    Raises:
        CurveError: A share out of range, or fewer changes than the shift needs.
    """
    if not 0.0 < flip_rate <= 1.0:
        raise CurveError(f"flip rate {flip_rate:g}", expected="a share in (0, 1]")
    if abs(shift) > flip_rate:
        raise CurveError(f"a shift of {shift:g} with a flip rate of {flip_rate:g}")
    return Spread(flip_rate - shift * shift, source=f"flip rate {flip_rate:g}")


def spread_of_pilot(parts: Components, documents: int) -> Spread:
    """The spread seen in a pilot: take its components apart into documents, seeds, and the rest.

    Args:
        parts: Of the pilot's difference or mean.
        documents: The pilot's number of documents (or clusters' documents).
    """
    many = [arm for arm in parts.arms if arm.seeds > 1]
    seed = float(np.mean([max(0.0, arm.seeds * (arm.between - arm.rest)) for arm in many] or [0.0]))
    rest = float(np.mean([arm.seeds * arm.rest * documents for arm in many] or [0.0]))
    # The document term of a pilot with S seeds holds rest/S for each arm.
    inside = sum(rest / arm.seeds for arm in many)
    document = max(parts.document * documents - inside, 0.0)
    words = f"pilot of {documents} documents"
    if many:
        words += f" × {', '.join(str(arm.seeds) for arm in parts.arms)} seeds"
    return Spread(document, seed, rest, len(parts.arms), words)


def standard_error_at(spread: Spread, documents: float, seeds: int) -> tuple[float, float]:
    """Standard error and degrees of freedom with that many documents and seeds."""
    over_docs = (spread.document + spread.arms * spread.rest / seeds) / documents
    between = 0.0 if seeds < 2 else spread.seed / seeds
    terms = [(over_docs, documents - 1.0)] + [(between, seeds - 1.0)] * spread.arms
    total = over_docs + spread.arms * between
    return float(np.sqrt(total)), satterthwaite(total, terms)


def needed_se(delta: float, df: float, question: Question, *, alpha: float, power: float) -> float:
    """The standard error at which a question about `delta` is answered."""
    if question == "interval":
        return delta / t_quantile(1 - alpha / 2, df)
    tail = alpha / 2 if question == "difference" else alpha
    return delta / (t_quantile(1 - tail, df) + t_quantile(power, df))


def plan(
    delta: float,
    spread: Spread,
    *,
    seeds: Iterable[int] = (1, 3, 5),
    question: Question = "difference",
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
) -> list[Plan]:
    """Documents needed for each number of seeds.

    Args:
        delta: The difference to be found ("difference"), the tolerable loss of a rank that loses
            nothing ("certificate"), or the interval's half-width ("interval"); a fraction.
        spread: From `spread_of_pilot`, `spread_of_flips`, or assumed.
        seeds: Training seeds in each arm to plan for.
        question: Which of the three.
        alpha: Error rate, two-sided but for a certificate.
        power: Chance of the answer where the truth is as assumed.
        comparisons: Tests that share alpha; Holm's first step, so the answer is on the safe side.

    Raises:
        CurveError: A number out of range, or an unknown question.
    """
    _check(delta, alpha, power, comparisons, question)
    counts = list(seeds)
    if any(count < 1 for count in counts) or not counts:
        raise CurveError(f"seeds {counts}", expected="whole numbers from 1 up")
    share = alpha / comparisons
    return [_documents(delta, spread, s, question, alpha=share, power=power) for s in counts]


def _documents(
    delta: float,
    spread: Spread,
    seeds: int,
    question: Question,
    *,
    alpha: float,
    power: float,
) -> Plan:
    def enough(n: int) -> bool:
        se, df = standard_error_at(spread, n, seeds)
        return se <= needed_se(delta, df, question, alpha=alpha, power=power)

    if not enough(LIMIT):
        return Plan(seeds, None, "the spread between seeds alone is too large: train more seeds")
    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return Plan(seeds, high)


def _check(delta: float, alpha: float, power: float, comparisons: int, question: str) -> None:
    if not 0.0 < delta < 1.0:
        raise CurveError(f"delta {delta:g}", expected="a fraction such as 0.02")
    if not 0.0 < alpha < 0.5 or not 0.5 <= power < 1.0:
        raise CurveError(f"alpha {alpha:g} and power {power:g}", expected="such as 0.05 and 0.8")
    if comparisons < 1:
        raise CurveError(f"{comparisons} comparisons", expected="at least 1")
    if question not in ("difference", "certificate", "interval"):
        raise CurveError(
            f"question {question!r}", expected="'difference', 'certificate' or 'interval'"
        )
