"""Is one adapter non-inferior, or equivalent, to another? Margin tests on the paired AURAC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aurac.curves.area import check_axis
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.analysis import split_variants
from aurac.stats.best import margin_test
from aurac.stats.groups import Groups, RecipeGroup, gather
from aurac.stats.paired import same_documents, shared_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.stats.best import MarginTest


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
