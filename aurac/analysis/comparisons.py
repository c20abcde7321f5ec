"""The comparisons of an analysis: pairs of adapters, truncations of one adapter, the leader.

All comparisons are one family for Holm: every pair of adapters on every task, each in its default
truncation, and every pair of truncations of one adapter. Where some are declared to be primary,
these are a family, and all others, the exploratory ones, are another. The candidates for the best
follow from the same tests: no row can be shown to be worse and be called a candidate. `aurac
compare`, `aurac score` and the report take theirs from here, so a pair has one p value wherever it
is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from aurac.analysis.groups import on_shared_axis, together
from aurac.analysis.pairing import gained_and_lost, paired_areas, two_groups
from aurac.analysis.primary import declared_as, declared_pairs
from aurac.analysis.rows import BestRow, InPlace, Options, PairRow, grouped
from aurac.analysis.sentences import AGAINST, best_sentences, pair_sentence, reading
from aurac.curves.area import BUDGETS, check_axis
from aurac.errors import CurveError
from aurac.stats.mean import NO_DOCUMENTS, Estimate, check_level
from aurac.stats.multiplicity import HolmFamily, holm, holm_levels
from aurac.stats.seeds import mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis.groups import RecipeGroup
    from aurac.records.decisions import Declaration
    from aurac.stats.paired import Difference
    from aurac.stats.seeds import Components


_FAMILIES = {None: "tests", False: "primary tests", True: "exploratory tests"}


@dataclass(frozen=True)
class PairTest:
    """A pair with what its row does not hold: the sources of variance, for aggregates.

    `room` is the difference by which either score may be the larger one.
    """

    row: PairRow
    result: Difference | None = None
    room: float = 1.0

    @property
    def p(self) -> float | None:
        """Two-sided p value before adjustment."""
        return self.result.p if self.result else None


def paired_curves(
    a: Any,
    b: Any,
    *,
    axis: str = "log2",
    level: float = 0.95,
    support: str | None = None,
    paired_seeds: bool | None = None,
) -> PairRow:
    """Compare two adapters by AURAC on the same documents, b - a.

    ``D_d = b_d - a_d`` of the documents' own areas, then the same formulas as for one adapter.

    Args:
        a: A `Curve` with outcomes, or what `as_curve` accepts; a list of them are training seeds.
        b: Another on the same documents; joined on `doc_ids`, by position where neither has any.
        axis: "log2", "linear", or a budget, "parameters" or "bytes": the areas are over the amounts
            that both were measured at.
        level: Coverage.
        support: "common" to compare curves with unequal ranks on those that both have.
        paired_seeds: As of `by_seed`: whether the difference is taken within each seed.

    Raises:
        CurveError: The two cannot be paired; says why.
    """
    check_axis(axis)
    check_level(level)
    settings = Options(axis=axis, level=level, support=support, paired_seeds=paired_seeds)
    return finished(paired_test(*two_groups(a, b), settings))


def paired_test(a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairTest:
    """As `paired_curves`, of two recipe groups with documents."""
    axis = settings.axis
    first, second = together([a, b], settings.support, axis)
    areas = paired_areas(first, second, axis, paired_seeds=settings.paired_seeds)
    single = first.seeds == second.seeds == 1 and first.span is None
    gained, lost = gained_and_lost(first.first, second.first) if single else (None, None)
    row = PairRow(
        a=a.name,
        b=b.name,
        task=a.task,
        axis=axis,
        ranks=first.ranks if first.span is None else (),
        span=first.span,
        n_docs=first.first.n_docs,
        gained=gained,
        lost=lost,
    )
    low, high = sorted((first.point(axis), second.point(axis)))
    return PairTest(row, areas.difference(settings.level), min(high, 1.0 - low))


def finished(
    test: PairTest, p_holm: float | None = None, tested_at: float | None = None
) -> PairRow:
    """The row of a test with its verdict, after Holm where it is one of a family, in words too."""
    row, result = test.row, test.result
    if result is not None:
        least = replace(result, alpha=tested_at or result.alpha).mde
        row = replace(
            row,
            value=result.estimate.value,
            estimate=result.estimate,
            p=result.p,
            p_holm=p_holm,
            detectable=None if least is None or least > test.room else least,
            verdict=verdict(result, p_holm, 1.0 - result.estimate.level),
            pairing=result.parts.pairing,
            conditional=result.conditional,
        )
    return in_words(row)


def in_words(row: PairRow) -> PairRow:
    """The row with what it shows in words."""
    return replace(row, reading=reading(row), sentence=pair_sentence(row))


def verdict(result: Difference, p_holm: float | None, alpha: float) -> int | None:
    """`PairRow.verdict`; two seeds say so little of how seeds vary that nothing follows from it."""
    p = result.p if p_holm is None else p_holm
    if p is None:
        return None
    if p > alpha:
        return None if result.parts.fewest == 2 else 0
    return 1 if result.estimate.value > 0 else -1


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of an analysis, and the sources of variance of its pairs of adapters."""

    pairs: tuple[PairRow, ...]
    variants: tuple[PairRow, ...]
    parts: tuple[Components | None, ...]


def compare_rows(
    default: Sequence[RecipeGroup], others: Sequence[RecipeGroup], settings: Options
) -> Comparisons:
    """Every pair of adapters on a task, and every pair of truncations of one adapter.

    All of them are one family for Holm, or two where some are declared to be primary. Those of
    truncations include declared ones of two adapters. A pair of adapters is b - a on every task
    alike, in the order in which the adapters were first given.
    """
    pairs = [
        compare_pair(a, b, settings)
        for same in _by_task(default).values()
        for a, b in combinations(same, 2)
    ]
    tests = [*pairs, *_truncation_pairs(default, others, settings)]
    if declared := declared_as(settings.primary):
        tests = _declared(tests, declared, default, others, settings)
    families = {
        which: iter(_with_holm([t for t in tests if t.row.exploratory is which], settings))
        for which in {test.row.exploratory for test in tests}
    }
    rows = tuple(next(families[test.row.exploratory]) for test in tests)
    parts = tuple(test.result.parts if test.result else None for test in pairs)
    return Comparisons(rows[: len(pairs)], rows[len(pairs) :], parts)


def _declared(
    tests: Sequence[PairTest],
    declared: Declaration,
    default: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
) -> list[PairTest]:
    """The tests and those declared that are not among them, each marked exploratory or not."""
    labels = {(group.task, group.name): group.label for group in default}

    def key(row: PairRow) -> tuple[str | None, frozenset[str]]:
        names = (labels.get((row.task, name), name) for name in (row.a, row.b))
        return row.task, frozenset(names)

    pairs = declared_pairs(declared, default, others)
    primary = {(a.task, frozenset((a.label, b.label))): (a, b) for a, b in pairs}
    there = {key(test.row) for test in tests}
    more = [
        _named(compare_pair(a, b, settings), a.label, b.label)
        for pair, (a, b) in primary.items()
        if pair not in there
    ]
    return [
        replace(test, row=replace(test.row, exploratory=key(test.row) not in primary))
        for test in (*tests, *more)
    ]


def _named(test: PairTest, a: str, b: str) -> PairTest:
    return replace(test, row=replace(test.row, a=a, b=b))


def _by_task(groups: Iterable[RecipeGroup]) -> dict[str | None, list[RecipeGroup]]:
    """The groups of each task, in the order in which their names were first given."""
    by_name = grouped(groups, lambda group: group.name).values()
    return grouped((group for same in by_name for group in same), lambda group: group.task)


def _with_holm(tests: Sequence[PairTest], settings: Options) -> list[PairRow]:
    """The rows of one family with their adjusted p, and the level that each was tested at."""
    given, alpha = [test.p for test in tests], 1 - settings.level
    steps = zip(tests, holm(given), holm_levels(given, alpha), strict=True)
    rows = [finished(test, p, level or alpha) for test, p, level in steps]
    count = sum(p is not None for p in given)
    return [row if row.p is None else replace(row, tests=count) for row in rows]


def compare_pair(a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairTest:
    """One paired difference, b - a, or the reason why there is none.

    Raises:
        CurveError: Documents or prompts differ, or ranks do and `support` is None; with
            `settings.strict` off that is the row's reason instead.
    """
    row, axis = PairRow(a=a.name, b=b.name, task=a.task, axis=settings.axis), settings.axis
    gap = a.gap or b.gap
    if gap is not None and settings.support is None:
        return PairTest(replace(row, reason=gap))
    try:
        if a.has_documents and b.has_documents:
            return paired_test(a, b, settings)
        a, b = on_shared_axis([a, b], axis, settings.support)
        ranks, value = a.ranks if a.span is None else (), b.point(axis) - a.point(axis)
        return PairTest(replace(row, ranks=ranks, span=a.span, value=value, reason=NO_DOCUMENTS))
    except CurveError as error:
        if settings.strict:
            raise
        return PairTest(replace(row, reason=error.text))


def _truncation_pairs(
    default: Sequence[RecipeGroup], others: Sequence[RecipeGroup], settings: Options
) -> Iterator[PairTest]:
    """Every pair of truncations of one adapter, on the ranks they share; SVD minus prefix."""
    common = replace(settings, support="common", strict=False)  # no advice, and why, where too few
    for group in default:
        same = [o for o in others if (o.name, o.task) == (group.name, group.task)]
        ways = sorted([group, *same], key=lambda way: way.first.basis == "svd")
        for a, b in combinations(ways, 2):
            yield _named(compare_pair(a, b, common), a.label, b.label)


def with_robustness(
    pairs: Sequence[PairRow],
    variants: Sequence[PairRow],
    default: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
) -> tuple[PairRow, ...]:
    """Say of each pair whether its verdict is the same whichever way the two are truncated.

    Each other truncation stands in the place of the pair's own, in the same family for Holm.
    """
    if not others:
        return tuple(pairs)
    ways = grouped([*default, *others], lambda group: (group.name, group.task))
    common = replace(settings, support="common", strict=False)
    every = (*pairs, *variants)
    families = {
        which: HolmFamily([row.p if row.exploratory is which else None for row in every])
        for which in {row.exploratory for row in every}
    }
    rows = []
    for at, row in enumerate(pairs):
        first, second = ways[row.a, row.task], ways[row.b, row.task]
        tests: dict[str, InPlace] = {}
        several = row.p is not None and len(first) + len(second) > 2
        for a, b in product(first, second) if several else ():
            result, test = compare_pair(a, b, common).result, InPlace()
            if result is not None and result.p is not None:
                p = families[row.exploratory].instead(at, result.p)
                test = InPlace(verdict(result, p, 1 - settings.level), result.p, p)
            tests[f"{a.truncation}{AGAINST}{b.truncation}"] = test
        rows.append(in_words(replace(row, truncations=tests)) if several else row)
    return tuple(rows)


def best_rows(
    default: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    pairs: Sequence[PairRow],
    settings: Options,
) -> tuple[BestRow, ...]:
    """The row with the largest AURAC of every task on which two or more have one.

    `pairs` are all tests of the family, on adapters and on truncations.
    """
    rows = []
    by_task = _by_task(group for group in (*default, *others) if group.gap is None)
    for task, same in ((task, same) for task, same in by_task.items() if len(same) > 1):
        row = BestRow(task, len(same), settings.level, axis=settings.axis)
        try:
            row = _best_row(row, same, default, pairs, settings)
        except CurveError as error:
            row = replace(row, reason=error.text)
        rows.append(row if row.leader else replace(row, sentences=tuple(best_sentences(row, {}))))
    return tuple(rows)


def _best_row(
    row: BestRow,
    groups: Sequence[RecipeGroup],
    default: Sequence[RecipeGroup],
    pairs: Sequence[PairRow],
    settings: Options,
) -> BestRow:
    axis, alike = settings.axis, list(groups)
    labels = {group.label: group.name if group in default else group.label for group in groups}
    if axis not in BUDGETS:
        ranks = {group.ranks for group in groups if group in default} or {groups[0].ranks}
        alike = [group for group in groups if group.ranks in ranks]
        if len(ranks) > 1 or len(alike) == 1:
            return replace(row, reason="the adapters were measured at different ranks")
    alike = on_shared_axis(alike, axis)
    # Equal values are in an order that does not depend on that of the rows.
    alike.sort(key=lambda g: (-round(g.point(axis), 12), labels[g.label] != g.name, g.label))
    first, *rest = (labels[group.label] for group in alike)
    worse = {labels.get(name, name) for name in _worse(row.task, pairs)}
    here = [pair for pair in pairs if pair.task == row.task and pair.estimate]
    met = [{labels.get(name, name) for name in (pair.a, pair.b)} for pair in here]
    estimate, lows = _leaders_interval(alike, settings)
    bounded = {labels[full] for full, low in lows.items() if low is not None and low > 0.0}
    bounded = {label for label in bounded - worse if {first, label} not in met}
    candidates = (first, *(label for label in rest if label not in worse | bounded))
    untested = [label for label in candidates[1:] if {first, label} not in met]
    kinds = {p.exploratory for p in pairs if p.p is not None}
    families = [name for kind, name in _FAMILIES.items() if kind in kinds] or [_FAMILIES[None]]
    families += ["bounds of this task's untested rows"] if bounded else []
    known = [-low for low in lows.values() if low is not None]
    shared = {group.label for group in alike}
    row = replace(
        row,
        compared=len(alike),
        span=alike[0].span,
        leader=first,
        estimate=estimate,
        candidates=candidates,
        untested=tuple(untested),
        bounded=tuple(label for label in rest if label in bounded),
        families=tuple(families),
        sure=round(1 - len(families) * (1 - row.level), 12),
        within=max(0.0, *known) if len(known) == len(rest) else None,
        apart=tuple(label for full, label in labels.items() if full not in shared),
    )
    areas = {labels[group.label]: group.point(axis) for group in alike}
    return replace(row, sentences=tuple(best_sentences(row, areas)))


def _leaders_interval(
    groups: Sequence[RecipeGroup], settings: Options
) -> tuple[Estimate, dict[str, float | None]]:
    """AURAC of the first of m rows, which was picked, and lower ends of its lead over the others.

    The largest of several estimates is too large on average: with 30 equal adapters its own 95 %
    interval covers in .68 to .79. So its interval is at ``1 - (1 - level)/m``, and each lower end
    at ``1 - (1 - level)/(m - 1)``: all hold together (Bonferroni), however the leader was picked.
    """
    axis, first, error = settings.axis, groups[0], 1 - settings.level
    if not first.has_documents:
        return Estimate(first.point(axis), None, None, None, NO_DOCUMENTS, settings.level), {}
    level = 1 - error / max(len(groups) - 1, 1)
    wide = Options(axis=axis, level=level, paired_seeds=settings.paired_seeds)
    known = together([group for group in groups if group.has_documents], axis=axis)
    lows = {}
    for group in known[1:]:
        gap = paired_test(group, known[0], wide).result
        lows[group.label] = gap.estimate.low if gap else None
    top, level = known[0], 1 - error / len(groups)
    return mean_of_seeds(top.areas(axis), top.layout, level, top.drawn_areas(axis)), lows


def _worse(task: str | None, pairs: Sequence[PairRow]) -> Iterator[str]:
    """The names of all that a pair on the task shows to be worse."""
    for pair in pairs:
        if pair.task == task and pair.verdict:
            yield pair.a if pair.verdict > 0 else pair.b
