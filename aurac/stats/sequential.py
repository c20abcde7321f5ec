"""Deciding from the documents so far: group-sequential tests of paired differences.

A `Design` says, before the first document, at which shares of the documents the test looks, what
it asks and how much error it spends. `decide` replays the looks on the differences in document
order, so the same data give the same decisions however often a run was interrupted. Several
questions (pairs, tasks) are one family: Holm's procedure on sequential p values, which hold at any
time (Liu and Anderson 2008; Maurer and Bretz 2013).

At each look the statistic is the one of the fixed-sample test, with its corrections where few
documents differ: the z at which its interval ends at the null value (Jennison and Turnbull 2000,
section 3.8). docs/explain/stopping-early.md has the method, its sources and the simulations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from aurac.errors import CurveError
from aurac.stats.boundaries import (
    betting_ends,
    boundaries,
    futility_bounds,
    median_drift,
    predictive,
    stopping,
)
from aurac.stats.boundaries import sequential_p as spending_p
from aurac.stats.margins import skewed_ends
from aurac.stats.mean import Layout, moments
from aurac.stats.multiplicity import holm
from aurac.stats.noninferiority import loss_bound
from aurac.stats.paired import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    # Tail probability → lower and upper end of the interval for the mean difference.
    Ends = Callable[[float], tuple[float, float]]

K = TypeVar("K")
Verdict = Literal[
    "continue", "superior", "inferior", "non-inferior", "futile", "not significant", "not shown"
]

LOOKS = 20
LEAST_STEP = 10  # documents between looks
GAMMA = -2.0  # docs/explain/stopping-early.md compares values
FUTILITY = 0.02
_LARGEST_Z = 8.0
_ALIKE = 1e-12


@dataclass(frozen=True)
class Design:
    """What is asked, how often, and at which error rate; fixed before the first document.

    Attributes:
        looks: Shares of the documents at which the test looks, ascending, the last 1.
        alpha: Error rate: family-wise for a difference, of each claim for a margin.
        margin: None asks which of two is better. A fraction asks whether b is at most that much
            worse than a, or worse by more.
        one_sided: With a margin, ask for non-inferiority alone.
        gamma: Of the Hwang-Shih-DeCani spending function.
        futility: Stop where the predictive probability of an answer is below this; 0 never does.
        anytime: Use a betting confidence sequence in the place of planned looks.
    """

    looks: tuple[float, ...] = tuple((k + 1) / LOOKS for k in range(LOOKS))
    alpha: float = 0.05
    margin: float | None = None
    one_sided: bool = False
    gamma: float = GAMMA
    futility: float = FUTILITY
    anytime: bool = False

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.looks, self.looks[1:], strict=False))
        if not self.looks or not rising or self.looks[0] <= 0 or self.looks[-1] != 1:
            raise CurveError(f"looks {self.looks}", expected="ascending shares, the last 1")
        if not 0.0 < self.alpha <= 0.25:
            raise CurveError(f"alpha {self.alpha:g}", expected="an error rate such as 0.05")
        if self.margin is not None and not 0.0 < self.margin < 1.0:
            raise CurveError(
                f"margin {self.margin:g}",
                expected="a fraction above 0 and below 1, such as 0.02 for two points",
            )
        if self.one_sided and self.margin is None:
            raise CurveError("one_sided without a margin", fix="give a margin")
        if not 0.0 <= self.futility < 0.5:
            raise CurveError(f"futility {self.futility:g}", expected="a probability below 0.5")

    @property
    def sides(self) -> int:
        """2 where both directions are answers."""
        return 1 if self.one_sided else 2

    @property
    def error(self) -> float:
        """Error rate over both sides."""
        return self.alpha if self.margin is None or self.one_sided else 2.0 * self.alpha

    @property
    def level(self) -> float:
        """Coverage of the repeated interval."""
        return 1.0 - self.alpha if self.margin is None else 1.0 - 2.0 * self.alpha

    @property
    def null(self) -> float:
        """The difference that the test is about."""
        return 0.0 if self.margin is None else -self.margin

    def expected(self, drift: float, questions: int = 1) -> tuple[float, float]:
        """Probability of an answer, and the mean share of the documents that are used.

        Args:
            drift: The expected z with all documents.
            questions: Tests that share the error rate.
        """
        outer = boundaries(self.looks, self.error / questions, self.gamma, self.sides)
        inner = futility_bounds(self.looks, outer[-1], self.futility, self.sides)
        result = stopping(self.looks, outer, drift, self.sides, inner)
        answered = float(result.upper.sum() + result.lower.sum())
        return answered, result.mean_fraction(self.looks)

    def documents(self, total: int) -> tuple[int, ...]:
        """Documents at each look, of `total`: at least `LEAST_STEP` apart."""
        kept: list[int] = []
        for share in self.looks:
            count = int(np.ceil(share * total - 1e-9))
            if count >= (kept[-1] if kept else 0) + LEAST_STEP and count + LEAST_STEP <= total:
                kept.append(count)
        return (*kept, total)


@dataclass(frozen=True)
class Series:
    """The paired differences of one question, in the order of the documents.

    Attributes:
        differences: (n,) b - a of the documents so far, in [-1, 1].
        total: Documents within the budget.
        clusters: n labels of what documents share.
        strata: n labels of fixed groups.
    """

    differences: NDArray[np.float64]
    total: int
    clusters: Sequence[Any] | None = None
    strata: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        values = self.differences
        if values.ndim != 1 or not (np.abs(values) <= 1.0 + _ALIKE).all():
            raise CurveError("differences", expected="one number in [-1, 1] for each document")
        if self.total < 2 * LEAST_STEP:
            raise CurveError(
                f"a budget of {self.total} documents",
                expected=f"at least {2 * LEAST_STEP}",
                fix="raise the budget, or evaluate all documents without stopping early",
            )

    def first(self, count: int) -> tuple[NDArray[np.float64], Layout]:
        """The first `count` differences and how their documents hang together."""
        labels = (None if x is None else x[:count] for x in (self.clusters, self.strata))
        return np.asarray(self.differences[:count], dtype=np.float64), Layout.make(count, *labels)


@dataclass(frozen=True)
class Look:
    """One look, after `documents`, a `fraction` of the budget.

    z is signed: positive where b is better (with a margin, better than a - margin). `boundary` is
    the critical value in force, `futility` the |z| below which the test stops without an answer.
    """

    documents: int
    fraction: float
    z: float
    boundary: float
    futility: float | None


@dataclass(frozen=True)
class Decision:
    """What the documents so far say about one question.

    Attributes:
        verdict: "continue", or how it ended.
        path: The looks made.
        planned: Looks planned.
        total: Documents within the budget.
        needs: Documents at the next look; None where none is needed.
        p: Sequential p value.
        p_adjusted: After Holm's procedure over the family.
        mean: Mean difference at the last look.
        estimate: Median-unbiased estimate of the difference after stopping.
        low, high: Repeated confidence interval at `level`, which holds at every look.
        level: Its coverage.
        predictive: Probability that the last look gives an answer, at the last look made.
    """

    verdict: Verdict
    path: tuple[Look, ...]
    planned: int
    total: int
    needs: int | None
    p: float
    p_adjusted: float
    level: float
    mean: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    predictive: float | None = None

    @property
    def documents(self) -> int:
        """Documents that the verdict is based on."""
        return self.path[-1].documents if self.path else 0

    @property
    def decided(self) -> bool:
        """Whether no more documents are needed."""
        return self.verdict != "continue"


def decide(design: Design, family: Mapping[K, Series]) -> dict[K, Decision]:
    """Replay the looks and decide every question of the family.

    A look is taken when all questions that are still open have its documents.

    Args:
        design: Fixed beforehand.
        family: For each question its differences so far.

    Raises:
        CurveError: A number out of range, or a design that does not fit the documents.
    """
    for series in family.values():
        if design.anytime and not (series.clusters is None and series.strata is None):
            raise CurveError(
                "a confidence sequence over clusters or strata",
                expected="independent documents",
                fix="use planned looks",
            )
    paths = [_Path(design, series) for series in family.values()]
    while opened := [path for path in paths if path.verdict == "continue"]:
        if not all(path.has_next() for path in opened):
            break
        for path in opened:
            path.look()
        _settle(design, paths, opened)
    p_values = [path.p() for path in paths]
    adjusted = holm(p_values)
    return {
        key: path.decision(p, float(q if q is not None else 1.0))
        for key, path, p, q in zip(family, paths, p_values, adjusted, strict=True)
    }


def _settle(design: Design, paths: list[_Path], opened: list[_Path]) -> None:
    """Holm's procedure on what crossed so far, then futility and the end of the budget."""
    while rest := [path for path in paths if not path.rejected]:
        level = design.error / len(rest)
        crossed = [path for path in rest if path.reject(level)]
        if not crossed:
            break
    level = design.error / max(len(rest), 1)
    for path in opened:
        path.close(level)


@dataclass
class _Path:
    """One question while its looks are replayed."""

    design: Design
    series: Series
    verdict: Verdict = "continue"
    rejected: bool = False
    z: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.documents = self.design.documents(self.series.total)
        self.fractions = tuple(n / self.series.total for n in self.documents)

    def has_next(self) -> bool:
        """Whether the documents of the next look are there."""
        return self.series.differences.size >= self.documents[len(self.z)]

    def look(self) -> None:
        """Take the next look."""
        self.values, self.layout = self.series.first(self.documents[len(self.z)])
        self.ends = _ends(self.design, self.values, self.layout)
        self.z.append(_statistic(self.ends, float(self.values.mean()), self.design.null))

    def bounds(self, level: float) -> tuple[float, ...]:
        """Critical values of all planned looks at an error rate."""
        if self.design.anytime:
            return (_normal_quantile(level / self.design.sides),) * len(self.fractions)
        return boundaries(self.fractions, level, self.design.gamma, self.design.sides)

    def reject(self, level: float) -> bool:
        """Whether one of its looks is beyond the boundary at this error rate."""
        z = np.asarray(self.z)
        beyond = (np.abs(z) if self.design.sides == 2 else z) >= self.bounds(level)[: z.size]
        if not beyond.any():
            return False
        up = z[int(np.argmax(beyond))] > 0
        better: Verdict = "superior" if self.design.margin is None else "non-inferior"
        self.rejected, self.verdict = True, better if up else "inferior"
        return True

    def close(self, level: float) -> None:
        """Record the look at the error rate in force; stop for futility or at the end."""
        at, bounds = len(self.z) - 1, self.bounds(level)
        edge, sides = -np.inf, self.design.sides
        if self.design.futility > 0 and not self.design.anytime:
            edges = futility_bounds(self.fractions, bounds[-1], self.design.futility, sides)
            edge = edges[at]
        z, shown = self.z[at], None if np.isinf(edge) else float(edge)
        self.looks.append(Look(self.documents[at], self.fractions[at], z, bounds[at], shown))
        if self.verdict != "continue":
            return
        if (abs(z) if sides == 2 else z) < edge:
            self.verdict = "futile"
        elif at + 1 == len(self.documents):
            self.verdict = "not significant" if self.design.margin is None else "not shown"

    def p(self) -> float:
        """The sequential p value so far."""
        if not self.z:
            return 1.0
        if self.design.anytime:
            top = max(abs(z) for z in self.z) if self.design.sides == 2 else max(self.z)
            return min(1.0, self.design.sides * _normal_tail(top))
        return spending_p(self.fractions, self.z, self.design.gamma, self.design.sides)

    def decision(self, p: float, adjusted: float) -> Decision:
        """What is known now."""
        is_open = self.verdict == "continue"
        made: dict[str, Any] = {}
        if self.looks:
            at, bounds = len(self.looks) - 1, self.bounds(self.design.error)
            low, high = self.ends(_normal_tail(bounds[at]))
            mean = float(self.values.mean())
            made = {"mean": mean, "estimate": self._estimate(mean)}
            made |= {"low": max(low, -1.0), "high": min(high, 1.0)}
            if not self.design.anytime:
                last = self.looks[-1].fraction, self.z[-1], bounds[-1]
                made["predictive"] = predictive(*last, self.design.sides)
        return Decision(
            verdict=self.verdict,
            path=tuple(self.looks),
            planned=len(self.documents),
            total=self.series.total,
            needs=self.documents[len(self.z)] if is_open else None,
            p=p,
            p_adjusted=adjusted,
            level=self.design.level,
            **made,
        )

    def _estimate(self, mean: float) -> float:
        """The median-unbiased estimate; the mean where there is no spread or no planned look."""
        se = float(moments(self.values, self.layout).se)
        if self.design.anytime or not se > 0.0:
            return mean
        made = [look.fraction for look in self.looks]
        bounds = [look.boundary for look in self.looks[:-1]]
        z = (mean - self.design.null) / se
        drift = median_drift(made, bounds, z, self.design.sides)
        return float(np.clip(self.design.null + drift * se * np.sqrt(made[-1]), -1.0, 1.0))


def _ends(design: Design, values: NDArray[np.float64], layout: Layout) -> Ends:
    """The interval of the fixed-sample test, as a function of the tail probability."""
    if design.anytime:
        return betting_ends(values, design.error)
    if layout.df <= 0:
        return lambda _tail: (-1.0, 1.0)
    if design.one_sided:  # the test behind `non_inferior_rank`
        return lambda tail: (
            -loss_bound(-values, layout, tail)[0],
            loss_bound(values, layout, tail)[0],
        )
    sides = np.maximum(-values, 0.0), np.maximum(values, 0.0)
    labels: dict[str, Any] = {"clusters": layout.clusters, "strata": layout.strata}
    parts = difference(*sides, **labels).parts

    def ends(tail: float) -> tuple[float, float]:
        down, up = parts.reach(1.0 - 2.0 * tail)
        low, high = parts.value - down, parts.value + up
        if design.margin is None:
            return low, high
        skewed = skewed_ends(values, layout, tail)
        return min(low, skewed[0]), max(high, skewed[1])

    return ends


def _statistic(ends: Ends, mean: float, null: float) -> float:
    """The signed z at which the interval ends at the null value, at most `_LARGEST_Z`."""
    from scipy.optimize import brentq

    if abs(mean - null) <= _ALIKE:
        return 0.0
    up = mean > null

    def surplus(z: float) -> float:
        low, high = ends(_normal_tail(z))
        return low - null if up else null - high

    if surplus(1e-3) <= 0.0:
        z = 0.0
    elif surplus(_LARGEST_Z) >= 0.0:
        z = _LARGEST_Z
    else:
        z = float(brentq(surplus, 1e-3, _LARGEST_Z, xtol=1e-9))
    return z if up else -z


def _normal_tail(z: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(-z))


def _normal_quantile(tail: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(tail))
