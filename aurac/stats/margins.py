"""Is one adapter non-inferior, or equivalent, to another? Margin tests on the paired AURAC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import check_axis
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.analysis import split_variants
from aurac.stats.groups import Groups, RecipeGroup, gather, same_documents, shared_ranks
from aurac.stats.mean import Layout, moments, t_quantile, unit_residuals
from aurac.stats.noninferiority import unseen_clusters
from aurac.stats.paired import difference
from aurac.stats.seeds import as_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.stats.paired import Difference


@dataclass(frozen=True)
class MarginTest:
    """Whether a is non-inferior or equivalent to b at a margin.

    Attributes:
        margin: How much worse (equivalence: or better) a may be, a fraction.
        alpha: Error rate of saying so wrongly.
        equivalent: Whether both sides were asked about.
        difference: Of a - b, with the interval at ``1 - 2·alpha``: each end is a one-sided bound
            at alpha.
    """

    margin: float
    alpha: float
    equivalent: bool
    difference: Difference

    @property
    def shown(self) -> bool:
        """Whether the interval lies within the margin: its lower end, for equivalence both."""
        low, high = self.difference.estimate.low, self.difference.estimate.high
        if low is None or high is None:
            return False
        return low > -self.margin and (high < self.margin or not self.equivalent)

    @property
    def refuted(self) -> bool:
        """Whether the interval lies outside of the margin as a whole."""
        low, high = self.difference.estimate.low, self.difference.estimate.high
        if low is None or high is None:
            return False
        return high <= -self.margin or (self.equivalent and low >= self.margin)


def margin_level(margin: float, alpha: float) -> float:
    """The coverage of the interval whose ends are one-sided bounds at alpha.

    Raises:
        CurveError: A margin or alpha out of range.
    """
    if not 0.0 < margin < 1.0:
        raise CurveError(f"margin {margin:g}", expected="a fraction such as 0.02")
    if not 0.0 < alpha <= 0.25:
        raise CurveError(f"alpha {alpha:g}", expected="an error rate such as 0.05, at most 0.25")
    return 1.0 - 2.0 * alpha


def margin_test(
    a: Any,
    b: Any,
    *,
    margin: float,
    rng: np.random.Generator | None = None,  # noqa: ARG001
    equivalent: bool = False,
    alpha: float = 0.05,
    clusters: Any = None,
    strata: Any = None,
) -> MarginTest:
    """Is a at most `margin` worse than b (non-inferior), or within `margin` of it (equivalent)?

    The bounds are the ends of the paired interval at ``1 - 2·alpha``, or those of `skewed_ends`
    where they are farther. Equivalence takes two one-sided tests, each at alpha (TOST: Schuirmann
    1987).

    Args:
        a: (n,) scores in [0, 1], or (S_a, n) for S_a training seeds.
        b: (n,) or (S_b, n), on the same documents in the same order.
        margin: A fraction, chosen before looking.
        rng: Accepted and not used: nothing is drawn.
        equivalent: Ask about both sides.
        alpha: Error rate.
        clusters: n labels of what documents share.
        strata: n labels of fixed groups.

    Raises:
        CurveError: As `difference`, or a margin or alpha out of range.
    """
    level = margin_level(margin, alpha)
    result = difference(b, a, clusters=clusters, strata=strata, level=level)
    estimate = result.estimate
    if estimate.low is not None and estimate.high is not None:
        gap = as_matrix(a).mean(axis=0) - as_matrix(b).mean(axis=0)
        low, high = skewed_ends(gap, Layout.make(gap.size, clusters, strata), alpha)
        low, high = min(estimate.low, low), max(estimate.high, high)
        result = replace(result, estimate=replace(estimate, low=low, high=high))
    return MarginTest(margin, alpha, equivalent, result)


def skewed_ends(gap: NDArray[np.float64], layout: Layout, alpha: float) -> tuple[float, float]:
    """One-sided t bounds for the mean of `gap` (n,), moved outward by its skewness.

    ``κ3 (1 + 2t²) / (6 se²)`` with κ3 the third cumulant of the mean (Johnson 1978): against many
    small gains and few large losses the t bound errs in 6 to 7 % at 300 to 1,000 documents.
    Clusters that were not drawn may differ by 1 (`unseen_clusters`).
    """
    result = moments(gap, layout)
    mean, se = float(result.mean), float(result.se)
    if not se > 0.0:
        return mean, mean
    t = t_quantile(1.0 - alpha, float(result.df))
    cumulant = float(np.sum(unit_residuals(gap, layout) ** 3)) / layout.n**3
    shift = cumulant * (1.0 + 2.0 * t * t) / (6.0 * se * se)
    below, above = (unseen_clusters(side, layout, alpha) for side in (-gap, gap))
    return (
        mean - max(t * se - min(shift, 0.0), below),
        mean + max(t * se + max(shift, 0.0), above),
    )


@dataclass(frozen=True)
class MarginRow:
    """A margin test of adapter a against adapter b on one task.

    Attributes:
        a: The adapter in question.
        b: The one that it is compared with.
        task: The task.
        axis: "log2" or "linear".
        n_docs: Documents that both were evaluated on.
        test: The test.
    """

    a: str
    b: str
    task: str | None
    axis: str
    n_docs: int
    test: MarginTest

    @property
    def shown(self) -> bool:
        """Whether a is shown to be non-inferior (or equivalent) to b."""
        return self.test.shown

    @property
    def verdict(self) -> str:
        """In a word or two: "non-inferior", "equivalent", "inferior", …, or "not shown"."""
        if self.test.shown:
            return "equivalent" if self.test.equivalent else "non-inferior"
        if not self.test.refuted:
            return "not shown"
        return "not equivalent" if self.test.equivalent else "inferior"

    @property
    def sentence(self) -> str:
        """One sentence with the difference, its bounds and the margin."""
        test, estimate = self.test, self.test.difference.estimate
        where = f" on {self.task}" if self.task else ""
        head = {
            "not shown": f"{self.a} is not shown to be "
            f"{'equivalent' if test.equivalent else 'non-inferior'} to {self.b}{where}",
            "inferior": f"{self.a} is inferior to {self.b}{where} by more than the margin",
        }.get(self.verdict, f"{self.a} is {self.verdict} to {self.b}{where}")
        difference = f"AURAC {self.axis} {self.a} - {self.b} = {estimate.value:+.4f}"
        if estimate.low is None or estimate.high is None:
            return f"{head}: {difference}, which has no interval ({estimate.method})."
        bound = f"one-sided {1 - test.alpha:.0%} bound"
        if test.equivalent:
            bound = f"{bound}s {estimate.low:+.4f} and {estimate.high:+.4f}"
        elif self.verdict == "inferior":
            bound = f"{bound} {estimate.high:+.4f}"
        else:
            bound = f"{bound} {estimate.low:+.4f}"
        scope = (
            "conditional on these checkpoints"
            if test.difference.conditional
            else "over documents and training seeds"
        )
        return f"{head}: {difference}, {bound}, margin {test.margin:g}, {scope}."

    def to_dict(self) -> dict[str, Any]:
        """An element of ``margin_tests``."""
        estimate = self.test.difference.estimate
        return {
            "a": self.a,
            "b": self.b,
            "task": self.task,
            "axis": self.axis,
            "question": "equivalent" if self.test.equivalent else "non-inferior",
            "margin": self.test.margin,
            "alpha": self.test.alpha,
            "difference": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "level": estimate.level,
            "method": estimate.method,
            "conditional": self.test.difference.conditional,
            "n_docs": self.n_docs,
            "shown": self.shown,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }


def non_inferior(a: Any, b: Any, *, margin: float, **options: Any) -> MarginRow:
    """Is a less than `margin` worse than b in AURAC, on the same documents?

    The lower one-sided bound of a - b, from the procedure of the paired interval, has to lie above
    ``-margin``.

    Args:
        a: A `Curve` with outcomes (or what `Curve.coerce` accepts), or a list of them that are
            training seeds of one recipe.
        b: The adapter that a is compared with, likewise.
        margin: A fraction such as 0.02, chosen before looking.
        **options: `alpha` (error rate, 0.05), `axis` ("log2" or "linear"), `support` ("common"
            compares unequal grids on the ranks both have).

    Raises:
        CurveError: The two cannot be paired, or a number is out of range.
    """
    return _between(a, b, margin, equivalent=False, **options)


def equivalent(a: Any, b: Any, *, margin: float, **options: Any) -> MarginRow:
    """Do a and b differ by less than `margin` in AURAC? Two one-sided tests (TOST).

    Args and errors as of `non_inferior`.
    """
    return _between(a, b, margin, equivalent=True, **options)


def _between(a: Any, b: Any, margin: float, *, equivalent: bool, **options: Any) -> MarginRow:
    first, second = _arm(a, "a"), _arm(b, "b")
    if first.name == second.name:
        first, second = replace(first, name="a"), replace(second, name="b")
    return _tested(first, second, margin, equivalent=equivalent, **options)


def _arm(curves: Any, name: str) -> RecipeGroup:
    several = curves if isinstance(curves, (list, tuple)) else [curves]
    if not several:
        raise CurveError(f"no curves for {name}", expected="at least one")
    seeds = [Curve.coerce(curve) for curve in several]
    label = seeds[0].adapter or name
    return gather([replace(seed, adapter=label) for seed in seeds], {label: [label]})[0]


def margin_tests(
    curves: Sequence[Curve],
    a: str,
    b: str,
    *,
    margin: float,
    groups: Groups | None = None,
    **options: Any,
) -> list[MarginRow]:
    """One test for each task on which both adapters were evaluated.

    That a passes on every task needs no adjustment: each test has the error rate alpha, and all of
    them have to pass (intersection-union test: Berger 1982).

    Args:
        curves: Of any adapters; each one's first truncation counts.
        a: Name of the adapter in question, or of its group of seeds.
        b: Name of the one that it is compared with.
        margin: As of `non_inferior`.
        groups: ``name -> adapter names`` that are training seeds of one recipe.
        **options: As of `non_inferior`, and `equivalent`.

    Raises:
        CurveError: An unknown name, a task that only one of them has, or as `non_inferior`.
    """
    own, _ = split_variants(gather(curves, groups))
    known = list(dict.fromkeys(arm.name for arm in own))
    for name in (a, b):
        if name not in known:
            raise CurveError(f"no adapter {name!r}", expected=f"one of {', '.join(known)}")
    if a == b:
        raise CurveError(f"{a!r} against itself", expected="two adapters")
    first = {arm.task: arm for arm in own if arm.name == a}
    second = {arm.task: arm for arm in own if arm.name == b}
    alone = set(first) ^ set(second)
    if alone:
        task = min(map(str, alone))
        raise CurveError(f"only one of {a} and {b} was evaluated on {task}")
    return [_tested(arm, second[task], margin, **options) for task, arm in first.items()]


def _tested(
    a: RecipeGroup,
    b: RecipeGroup,
    margin: float,
    *,
    equivalent: bool = False,
    alpha: float = 0.05,
    axis: str = "log2",
    support: str | None = None,
) -> MarginRow:
    check_axis(axis)
    for arm in (a, b):
        if not arm.has_documents:
            raise CurveError(f"{arm.name} has no per-document outcomes to test")
    ranks = shared_ranks(a.first, b.first, support)
    first, second = a.at(ranks), b.at(ranks)
    order = same_documents(first.first, second.first)
    left, right = first.areas(axis), second.areas(axis)
    layout = first.layout()
    test = margin_test(
        left,
        right if order is None else right[:, order],
        margin=margin,
        equivalent=equivalent,
        alpha=alpha,
        clusters=layout.clusters,
        strata=layout.strata,
    )
    return MarginRow(a.name, b.name, a.task, axis, left.shape[1], test)
