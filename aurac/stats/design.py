"""What a sequential test asks, of which documents in which order, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aurac.errors import CurveError
from aurac.stats.boundaries import boundaries, futility_bounds, stopping
from aurac.stats.intervals import interval
from aurac.stats.mean import Layout

Verdict = Literal[
    "continue", "superior", "inferior", "non-inferior", "futile", "not significant", "not shown"
]

LOOKS = 20
LEAST_STEP = 10  # documents between looks
GAMMA = -2.5  # docs/explain/stopping-early.md compares values
FUTILITY = 0.02
LEAST_FOR_WIDTH = 30
_ALIKE = 1e-12


@dataclass(frozen=True)
class Design:
    """What is asked, how often, and at which error rate; fixed before the first document."""

    # Shares of the documents at which the test looks, ascending, the last 1
    looks: tuple[float, ...] = tuple((k + 1) / LOOKS for k in range(LOOKS))
    alpha: float = 0.05  # family-wise for a difference, of each claim for a margin
    # None asks which of two is better, a fraction whether b is at most that much worse than a, or
    # worse by more
    margin: float | None = None
    one_sided: bool = False  # with a margin, ask for non-inferiority alone
    gamma: float = GAMMA  # of the Hwang-Shih-DeCani spending function, of a single question
    futility: float = FUTILITY  # stop where the predictive probability of an answer is below this
    anytime: bool = False  # a betting confidence sequence in the place of planned looks

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

    def gamma_of(self, questions: int) -> float:
        """That of a family: the smaller each error rate, the more an early look costs in power."""
        return self.gamma - float(np.log2(questions))

    def expected(self, drift: float, questions: int = 1) -> tuple[float, float]:
        """Probability of an answer, and the mean share of the documents that are used.

        `drift` is the expected z with all documents; `questions` are tests that share the error.
        """
        each = self.error / questions / self.sides
        outer = boundaries(self.looks, each, self.gamma_of(questions))
        inner = futility_bounds(self.looks, outer[-1], self.futility, self.sides)
        result = stopping(self.looks, outer, drift, self.sides, inner)
        answered = float(result.upper.sum() + result.lower.sum())
        return answered, float((result.upper + result.lower + result.inner) @ np.array(self.looks))

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
    """The paired differences of one question, in the order of the documents."""

    differences: NDArray[np.float64]  # (n,) b - a of the documents so far, in [-1, 1]
    total: int  # documents within the budget
    clusters: Sequence[Any] | None = None  # n labels of what documents share
    strata: Sequence[Any] | None = None  # n labels of fixed groups

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
    the critical value in force on the side of z, `opposite` that on the other side, and `futility`
    the |z| below which the test stops without an answer.
    """

    documents: int
    fraction: float
    z: float
    boundary: float
    futility: float | None
    opposite: float | None = None


@dataclass(frozen=True)
class Decision:
    """What the documents so far say about one question.

    The repeated confidence interval from `low` to `high` holds at every look.
    """

    verdict: Verdict  # "continue", or how it ended
    path: tuple[Look, ...]  # the looks made
    planned: int  # looks planned
    total: int  # documents within the budget
    needs: int | None  # documents at the next look; None where none is needed
    p: float  # sequential
    p_adjusted: float  # after Holm's procedure over the family
    level: float  # coverage of the interval
    mean: float | None = None  # mean difference at the last look
    estimate: float | None = None  # median-unbiased after stopping
    low: float | None = None
    high: float | None = None
    predictive: float | None = None  # probability, at the last look made, of an answer at the last

    @property
    def documents(self) -> int:
        """Documents that the verdict is based on."""
        return self.path[-1].documents if self.path else 0

    @property
    def decided(self) -> bool:
        """Whether no more documents are needed."""
        return self.verdict != "continue"


def width_reached(
    values: NDArray[np.float64],
    width: float,
    *,
    level: float = 0.95,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
) -> bool:
    """Whether the interval for the mean of `values` (n,) in [0, 1] is at most `width` wide.

    Stopping at the first such look keeps the coverage (Chow and Robbins 1965), with the guard
    against a variance that is too small by chance: `LEAST_FOR_WIDTH` units, and ``1/n`` added to
    the variance of a document.

    Raises:
        CurveError: A width that is not above 0 and below 1.
    """
    if not 0.0 < width < 1.0:
        raise CurveError(f"width {width:g}", expected="a fraction such as 0.02 for two points")
    layout = Layout.make(values.size, clusters, strata)
    if layout.groups < LEAST_FOR_WIDTH:
        return False
    estimate = interval(values, level=level, clusters=clusters, strata=strata)
    if estimate.low is None or estimate.high is None or estimate.se is None:
        return False
    wider = np.sqrt(1.0 + 1.0 / (layout.n * estimate.se) ** 2)  # s² + 1/n in the place of s²
    return bool((estimate.high - estimate.low) * wider <= width)


def document_order(
    count: int,
    seed: int,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
) -> NDArray[np.intp]:
    """A random order of documents whose every beginning is a fair sample of them.

    Clusters stay together. Strata are sampled in proportion: every beginning has the share of each,
    but for less than one document.

    Returns (count,) places of the documents, in the order of evaluation.
    """
    rng = np.random.default_rng(seed)
    layout = Layout.make(count, clusters)
    units = np.arange(count) if layout.clusters is None else layout.clusters
    order = np.argsort(rng.permutation(layout.groups)[units], kind="stable")
    if strata is None:
        return order
    codes = np.unique(np.asarray(strata), return_inverse=True)[1][order]
    where = np.empty(count)
    for code, size in enumerate(np.bincount(codes)):
        where[codes == code] = (np.arange(size) + rng.random()) / size
    return order[np.argsort(where, kind="stable")]
