"""Is one adapter non-inferior, or equivalent, to another? Margin tests on the paired AURAC."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aurac.analysis.groups import defaults, find_groups, gather, together
from aurac.analysis.pairing import paired_areas, two_groups
from aurac.analysis.rows import MarginTest, Options
from aurac.analysis.sentences import ALL_ZERO, margin_sentence
from aurac.arguments import fraction
from aurac.curves.area import check_axis
from aurac.errors import CurveError
from aurac.stats.mean import Layout
from aurac.stats.noninferiority import skewed_ends
from aurac.stats.paired import compare
from aurac.stats.seeds import as_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from aurac.analysis.groups import Groups, RecipeGroup
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve


def non_inferior(
    a: Any,
    b: Any,
    margin: float,
    *,
    alpha: float = 0.05,
    axis: Axis = "log2",
    support: str | None = None,
    paired_seeds: bool | None = None,
) -> MarginTest:
    """Is a less than `margin` worse than b in AURAC, on the same documents?

    The lower one-sided bound of a - b, from the procedure of the paired interval, has to lie above
    ``-margin``. The difference is a - b, that of `Run.pairs` is b - a.

    Args:
        a: A `Curve` with outcomes (or what `as_curve` accepts), or a list of them that are
            training seeds of one recipe.
        b: The adapter that a is compared with, likewise.
        margin: A fraction such as 0.02, chosen before looking.
        alpha: Error rate.
        axis: "log2", "linear", "parameters" or "bytes".
        support: "common" compares unequal grids on the ranks both have.
        paired_seeds: As of `paired_curves`.

    Returns:
        A test that is true where it is passed; `passed`, `verdict`, `sentence` and `estimate` (of
        a - b, a fraction) say what was shown.

    Raises:
        CurveError: The two cannot be paired.
        UsageError: A number out of range.
    """
    settings = Options(axis=axis, alpha=alpha, support=support, paired_seeds=paired_seeds)
    return _tested(a, b, margin, settings, both_sides=False)


def equivalent(
    a: Any,
    b: Any,
    margin: float,
    *,
    alpha: float = 0.05,
    axis: Axis = "log2",
    support: str | None = None,
    paired_seeds: bool | None = None,
) -> MarginTest:
    """Do a and b differ by less than `margin` in AURAC? Two one-sided tests (TOST).

    a and b are curves with outcomes, such as those of `Run.curves`, or lists of training seeds;
    `margin` is a fraction such as 0.02, chosen before looking; `alpha` the error rate. The rest,
    the test that is returned and the errors are as of `non_inferior`.
    """
    settings = Options(axis=axis, alpha=alpha, support=support, paired_seeds=paired_seeds)
    return _tested(a, b, margin, settings, both_sides=True)


def _tested(a: Any, b: Any, margin: float, settings: Options, *, both_sides: bool) -> MarginTest:
    return _group_test(*two_groups(a, b), margin, settings, both_sides=both_sides)


def margin_tests(
    curves: Sequence[Curve],
    a: str,
    b: str,
    margin: float,
    settings: Options,
    *,
    groups: Groups | None = None,
    both_sides: bool = False,
) -> list[MarginTest]:
    """One test for each task on which both adapters were evaluated.

    That a passes on every task needs no adjustment: each test has the error rate alpha, and all of
    them have to pass (intersection-union test: Berger 1982). a and b name adapters, or groups of
    seeds, in their default truncation, or another truncation as tables do. Of the settings axis,
    alpha, support and paired seeds count.
    """
    known, others = defaults(gather(curves, groups))
    every, names = [*known, *others], (a, b)
    found = [find_groups(name, known, every, f"no adapter {name!r}") for name in names]
    if {group.label for group in found[0]} & {group.label for group in found[1]}:
        raise CurveError(f"{a!r} against itself", expected="two adapters")
    named = ([replace(g, name=n) for g in same] for n, same in zip(names, found, strict=True))
    first, second = ({group.task: group for group in same} for same in named)
    alone = set(first) ^ set(second)
    if alone:
        task = min(map(str, alone))
        raise CurveError(f"only one of {a} and {b} was evaluated on {task}")
    return [
        _group_test(group, second[task], margin, settings, both_sides=both_sides)
        for task, group in first.items()
    ]


def _group_test(
    a: RecipeGroup, b: RecipeGroup, margin: float, settings: Options, *, both_sides: bool
) -> MarginTest:
    axis = check_axis(settings.axis)
    for group in (a, b):
        if not group.has_documents:
            raise CurveError(
                f"{group.name} has no per-document outcomes to test",
                expected="scores of documents at each rank, not accuracies alone",
            )
    first, second = together([a, b], settings.support, axis)
    areas = paired_areas(second, first, axis, paired_seeds=settings.paired_seeds)
    test = margin_test(
        areas.b,
        areas.a,
        areas.layout,
        margin=margin,
        both_sides=both_sides,
        alpha=settings.alpha,
        draws=areas.draws,
        matched=areas.matched,
    )
    test = replace(test, a=a.name, b=b.name, task=a.task, axis=axis, span=first.span)
    if not (areas.a.any() or areas.b.any()):  # which shows nothing of the two
        unknown = replace(test.estimate, low=None, high=None, method=ALL_ZERO.format(" of both"))
        test = replace(test, estimate=unknown)
    return replace(test, sentence=margin_sentence(test))


def margin_test(
    a: Any,
    b: Any,
    layout: Layout | None = None,
    *,
    margin: float,
    both_sides: bool = False,
    alpha: float = 0.05,
    draws: NDArray[np.float64] | None = None,
    matched: bool = False,
) -> MarginTest:
    """Is a at most `margin` worse than b (non-inferior), or within `margin` of it (equivalent)?

    The bounds are the ends of the paired interval at ``1 - 2·alpha``, or those of `skewed_ends`
    where they are farther. Equivalence takes two one-sided tests, each at alpha (TOST: Schuirmann
    1987).

    Args:
        a: (n,) scores in [0, 1], or (S_a, n) for S_a training seeds.
        b: (n,) or (S_b, n), on the same documents in the same order.
        layout: The documents' clusters and strata; independent documents by default.
        margin: A fraction, chosen before looking.
        both_sides: Ask whether the two differ by less than the margin: a may be better, too.
        alpha: Error rate.
        draws: (N, n) difference a - b under each draw of the few-shot examples, where there are.
        matched: Whether row s of a and of b belong together, as the same seed.

    Raises:
        CurveError: Unequal numbers of documents.
        UsageError: A margin or alpha out of range.
    """
    a, b = as_matrix(a), as_matrix(b)
    if a.shape[1] != b.shape[1]:
        raise CurveError(
            f"{a.shape[1]} documents against {b.shape[1]}", expected="the same documents for both"
        )
    layout = layout or Layout(a.shape[1])
    margin, alpha = fraction(margin, "margin"), fraction(alpha, "alpha", 0.25, "0.05")
    result = compare(b, a, layout, level=1.0 - 2.0 * alpha, draws=draws, matched=matched)
    estimate, parts = result.estimate, result.parts
    if estimate.low is not None and estimate.high is not None:
        low, high = skewed_ends(a.mean(axis=0) - b.mean(axis=0), layout, alpha)
        estimate = replace(estimate, low=min(estimate.low, low), high=max(estimate.high, high))
    number = a.shape[1]
    test = MarginTest(margin, alpha, both_sides, estimate, parts.pairing, parts.conditional, number)
    return replace(test, sentence=margin_sentence(test))
