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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from aurac.errors import CurveError
from aurac.stats.boundaries import (
    Boundary,
    betting_ends,
    boundaries,
    futility_bounds,
    median_drift,
    predictive,
)
from aurac.stats.boundaries import sequential_p as spending_p
from aurac.stats.design import Decision, Design, Look, Series, Verdict
from aurac.stats.mean import Layout, mean_se_df, t_quantile
from aurac.stats.multiplicity import holm
from aurac.stats.noninferiority import loss_bound, skewed_ends
from aurac.stats.paired import difference

# Tail probability → lower and upper end of the interval for the mean difference.

Ends = Callable[[float], tuple[float, float]]


K = TypeVar("K")
_LARGEST_Z = 8.0
_FARTHEST = 10.0
_ALIKE = 1e-12


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
    gamma = design.gamma_of(max(len(family), 1))
    paths = [_Path(design, series, gamma) for series in family.values()]
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


@dataclass(frozen=True)
class RankDecision:
    """The smallest non-inferior rank, as far as the documents so far say."""

    rank: int  # the smallest shown to be non-inferior so far; the reference where none is
    asks: int | None  # the rank whose documents are needed next; None when decided
    decisions: Mapping[int, Decision]  # of each rank that was looked at, from the largest down


def smallest_rank(
    design: Design, reference: int, ranks: Sequence[int], losses: Mapping[int, Series]
) -> RankDecision:
    """Go down the ranks while each is shown to be non-inferior to the reference.

    A fixed sequence of tests at full alpha, each of them sequential: a rank is asked about only
    when every larger one has passed, and the sequence ends at the first that does not (Maurer,
    Hothorn and Lehmacher 1995; Glimm, Maurer and Bretz 2010).

    `ranks` are those below the reference, in descending order; `losses` are for each rank with
    documents the scores at the rank minus those at the reference.
    """
    passed, decisions = reference, dict[int, Decision]()
    for rank in ranks:
        if rank in losses:
            decisions[rank] = decide(design, {rank: losses[rank]})[rank]
        if rank not in losses or not decisions[rank].decided:
            return RankDecision(passed, rank, decisions)
        if decisions[rank].verdict != "non-inferior":
            break
        passed = rank
    return RankDecision(passed, None, decisions)


def _settle(design: Design, paths: list[_Path], opened: list[_Path]) -> None:
    """Holm's procedure on what crossed so far, then futility and the end of the budget."""
    while rest := [path for path in paths if not path.rejected]:
        level = design.error / len(rest)
        crossed = [path for path in rest if path.reject(level)]
        if not crossed:
            break
    level = design.error / max(len(rest), 1)
    opened.sort(key=lambda path: (path.rejected, -path.strength))
    for stronger, path in enumerate(opened):  # it can be answered after all that are stronger
        path.close(level, design.error / max(len(rest) - stronger, 1))


@dataclass
class _Path:
    """One question while its looks are replayed."""

    design: Design
    series: Series
    gamma: float
    verdict: Verdict = "continue"
    rejected: bool = False
    z: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    factors: list[tuple[float, float]] = field(default_factory=list)
    lines: dict[tuple[float, int], Boundary] = field(default_factory=dict)

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
        self.factors.append(self._farther())

    def _farther(self) -> tuple[float, float]:
        """How many times as far as Student's the interval reaches, down and up; at least 1.

        1 with a margin: its corrections hold back no error, they only keep skewed losses from
        spending more than they may.
        """
        if self.design.margin is not None or self.design.anytime:
            return 1.0, 1.0
        tail = self.design.error / self.design.sides
        mean, se, df = mean_se_df(self.values, self.layout)
        half = t_quantile(1.0 - tail, df) * se if df > 0 else 0.0
        if not half > 0.0:
            return _FARTHEST, _FARTHEST
        low, high = self.ends(tail)
        down, up = np.clip([(mean - low) / half, (high - mean) / half], 1.0, _FARTHEST)
        return float(down), float(up)

    @property
    def strength(self) -> float:
        """How far z is from no answer."""
        return abs(self.z[-1]) if self.design.sides == 2 else self.z[-1]

    def bounds(self, level: float) -> NDArray[np.float64]:
        """(sides, looks made) critical values upward and downward at an error rate."""
        sides, tail = range(self.design.sides), level / self.design.sides
        if self.design.anytime:
            return np.full((len(sides), len(self.z)), -ndtri(tail))
        for side in sides:
            if (level, side) not in self.lines:
                self.lines[level, side] = Boundary(self.fractions, tail, self.gamma)
        made = zip(*self.factors, strict=True)
        rows = zip(sides, made, strict=False)
        return np.array([self.lines[level, side].extend(factors) for side, factors in rows])

    def reject(self, level: float) -> bool:
        """Whether one of its looks is beyond the boundary at this error rate."""
        signed = np.array([self.z, np.negative(self.z)])[: self.design.sides]
        beyond = signed >= self.bounds(level)
        if not beyond.any():
            return False
        up = beyond[0, int(np.argmax(beyond.any(axis=0)))]
        better: Verdict = "superior" if self.design.margin is None else "non-inferior"
        self.rejected, self.verdict = True, better if up else "inferior"
        return True

    def close(self, level: float, hoped: float) -> None:
        """Record the look; stop for futility or at the end.

        Args:
            level: The error rate in force.
            hoped: That which it has if all stronger questions are answered.
        """
        at, sides, z = len(self.z) - 1, self.design.sides, self.z[-1]
        edge, bounds = -np.inf, [float(bound) for bound in self.bounds(level)[:, -1]]
        if self.design.futility > 0 and not self.design.anytime:
            edge = futility_bounds(self.fractions, self.last(hoped), self.design.futility, sides)[
                at
            ]
        here, *other = bounds if z >= 0 else bounds[::-1]
        shown = None if np.isinf(edge) else float(edge)
        documents, fraction = self.documents[at], self.fractions[at]
        self.looks.append(Look(documents, fraction, z, here, shown, *other))
        if self.verdict != "continue":
            return
        if self.strength < edge:
            self.verdict = "futile"
        elif at + 1 == len(self.documents):
            self.verdict = "not significant" if self.design.margin is None else "not shown"

    def last(self, level: float) -> float:
        """The critical value of the last look, where every look spends its error rate."""
        return boundaries(self.fractions, level / self.design.sides, self.gamma)[-1]

    def p(self) -> float:
        """The sequential p value so far."""
        if not self.z:
            return 1.0
        sides = self.design.sides
        signed = (self.z, [-z for z in self.z])[:sides]
        if self.design.anytime:
            return min(1.0, sides * float(ndtr(-max(map(max, signed)))))
        rows = zip(signed, zip(*self.factors, strict=True), strict=False)
        each = [spending_p(self.fractions, z, self.gamma, factors) for z, factors in rows]
        return min(1.0, sides * min(each))

    def decision(self, p: float, adjusted: float) -> Decision:
        """What is known now."""
        is_open = self.verdict == "continue"
        made: dict[str, Any] = {}
        if self.looks:
            bounds = self.bounds(self.design.error)[:, -1]
            low, _ = self.ends(float(ndtr(-bounds[0])))
            _, high = self.ends(float(ndtr(-bounds[-1])))
            mean = float(self.values.mean())
            made = {"mean": mean, "estimate": self._estimate(mean)}
            made |= {"low": max(low, -1.0), "high": min(high, 1.0)}
            if not self.design.anytime:
                last = self.looks[-1].fraction, self.z[-1], self.last(self.design.error)
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
        _, se, _ = mean_se_df(self.values, self.layout)
        if self.design.anytime or not se > 0.0:
            return mean
        made = [look.fraction for look in self.looks]
        bounds = [x.boundary * far for x, (far, _) in zip(self.looks, self.factors, strict=True)]
        z = (mean - self.design.null) / se
        drift = median_drift(made, bounds[:-1], z, self.design.sides)
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
    if abs(mean - null) <= _ALIKE:
        return 0.0
    up = mean > null

    def surplus(z: float) -> float:
        low, high = ends(float(ndtr(-z)))
        return low - null if up else null - high

    if surplus(1e-3) <= 0.0:
        z = 0.0
    elif surplus(_LARGEST_Z) >= 0.0:
        z = _LARGEST_Z
    else:
        z = float(brentq(surplus, 1e-3, _LARGEST_Z, xtol=1e-9))
    return z if up else -z
