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

from aurac.analysis.pairs import pair_groups
from aurac.analysis.primary import declared_pairs
from aurac.analysis.rows import BestRow, PairRow
from aurac.analysis.sentences import verdict
from aurac.curves.area import BUDGETS, area_name
from aurac.curves.display import percent
from aurac.errors import CurveError
from aurac.stats.groups import on_shared_axis, together
from aurac.stats.mean import NO_DOCUMENTS, Estimate
from aurac.stats.multiplicity import Family, holm, holm_levels
from aurac.stats.seeds import mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import Options, ScoreRow
    from aurac.records.decisions import Declaration
    from aurac.stats.groups import RecipeGroup


def compare_rows(
    default: Sequence[RecipeGroup], others: Sequence[RecipeGroup], settings: Options
) -> tuple[tuple[PairRow, ...], tuple[PairRow, ...]]:
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
    rows = [*pairs, *_truncation_pairs(default, others, settings)]
    if settings.primary is not None:
        rows = _declared(rows, settings.primary, default, others, settings)
    families = {
        which: iter(_with_holm([r for r in rows if r.exploratory is which], 1 - settings.level))
        for which in {row.exploratory for row in rows}
    }
    family = tuple(next(families[row.exploratory]) for row in rows)
    return family[: len(pairs)], family[len(pairs) :]


def _declared(
    rows: Sequence[PairRow],
    declared: Declaration,
    default: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
) -> list[PairRow]:
    """The rows and those declared that are not among them, each marked exploratory or not."""
    labels = {(group.task, group.name): group.label for group in default}

    def key(row: PairRow) -> tuple[str | None, frozenset[str]]:
        names = (labels.get((row.task, name), name) for name in (row.a, row.b))
        return row.task, frozenset(names)

    pairs = declared_pairs(declared, default, others)
    primary = {(a.task, frozenset((a.label, b.label))): (a, b) for a, b in pairs}
    there = {key(row) for row in rows}
    more = [
        replace(compare_pair(a, b, settings), a=a.label, b=b.label)
        for pair, (a, b) in primary.items()
        if pair not in there
    ]
    return [replace(row, exploratory=key(row) not in primary) for row in (*rows, *more)]


def _by_task(groups: Iterable[RecipeGroup]) -> dict[str | None, list[RecipeGroup]]:
    by_name: dict[str, list[RecipeGroup]] = {}
    for group in groups:
        by_name.setdefault(group.name, []).append(group)
    by_task: dict[str | None, list[RecipeGroup]] = {}
    for group in (group for same in by_name.values() for group in same):
        by_task.setdefault(group.task, []).append(group)
    return by_task


def _with_holm(rows: Sequence[PairRow], alpha: float) -> tuple[PairRow, ...]:
    """The rows of one family with their adjusted p, and the level that each was tested at."""
    given = [row.p for row in rows]
    result = []
    for row, p, level in zip(rows, holm(given), holm_levels(given, alpha), strict=True):
        pair = row.result and replace(row.result, alpha=level or alpha)
        result.append(replace(row, p_holm=p, result=pair))
    return tuple(result)


def compare_pair(a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairRow:
    """One paired difference, b - a, or the reason why there is none.

    Raises:
        CurveError: Documents or prompts differ, or ranks do and `support` is None; with
            `settings.strict` off that is the row's reason instead.
    """
    row, axis = PairRow(a=a.name, b=b.name, task=a.task, axis=settings.axis), settings.axis
    gap = a.gap or b.gap
    if gap is not None and settings.support is None:
        return replace(row, reason=gap)
    try:
        if a.has_documents and b.has_documents:
            return pair_groups(
                a,
                b,
                axis=axis,
                level=settings.level,
                support=settings.support,
                paired_seeds=settings.paired_seeds,
            )
        a, b = on_shared_axis([a, b], axis, settings.support)
        ranks, value = a.ranks if a.span is None else (), b.point(axis) - a.point(axis)
        return replace(row, ranks=ranks, span=a.span, value=value, reason=NO_DOCUMENTS)
    except CurveError as error:
        if settings.strict:
            raise
        return replace(row, reason=str(error))


def _truncation_pairs(
    default: Sequence[RecipeGroup], others: Sequence[RecipeGroup], settings: Options
) -> Iterator[PairRow]:
    """Every pair of truncations of one adapter, on the ranks they share."""
    common = replace(settings, support="common", strict=False)  # no advice, and why, where too few
    for group in default:
        same = [o for o in others if (o.name, o.task) == (group.name, group.task)]
        for a, b in combinations([group, *same], 2):
            yield replace(compare_pair(a, b, common), a=a.label, b=b.label)


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
    ways: dict[tuple[str, str | None], list[RecipeGroup]] = {}
    for group in [*default, *others]:
        ways.setdefault((group.name, group.task), []).append(group)
    common = replace(settings, support="common", strict=False)
    every = (*pairs, *variants)
    families = {
        which: Family([row.p if row.exploratory is which else None for row in every])
        for which in {row.exploratory for row in every}
    }
    rows = []
    for at, row in enumerate(pairs):
        first, second = ways[row.a, row.task], ways[row.b, row.task]
        verdicts: dict[str, int | None] = {}
        several = row.p is not None and len(first) + len(second) > 2
        for a, b in product(first, second) if several else ():
            result, sign = compare_pair(a, b, common).result, None
            if result is not None and result.p is not None:
                p = families[row.exploratory].instead(at, result.p)
                sign = verdict(result, p, 1 - settings.level)
            verdicts[f"{a.truncation} against {b.truncation}"] = sign
        rows.append(replace(row, truncations=verdicts) if several else row)
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
            rows.append(_best_row(row, same, default, pairs, settings))
        except CurveError as error:
            rows.append(replace(row, reason=str(error)))
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
    worse = {labels.get(name, name) for name in _worse(row.task, pairs, 1 - settings.level)}
    met = [{labels.get(n, n) for n in (p.a, p.b)} for p in pairs if p.task == row.task and p.result]
    estimate, lows = _leaders_interval(alike, settings)
    bounded = {labels[full] for full, low in lows.items() if low is not None and low > 0.0}
    bounded = {label for label in bounded - worse if {first, label} not in met}
    candidates = (first, *(label for label in rest if label not in worse | bounded))
    untested = [label for label in candidates[1:] if {first, label} not in met]
    families = max(1, len({p.exploratory for p in pairs if p.p is not None})) + bool(bounded)
    known = len(lows) == len(rest) and None not in lows.values()
    return replace(
        row,
        compared=len(alike),
        leader=first,
        estimate=estimate,
        candidates=candidates,
        untested=tuple(untested),
        sure=1 - families * (1 - row.level),
        within=max(0.0, *(-low for low in lows.values() if low is not None)) if known else None,
        apart=tuple(
            label for full, label in labels.items() if full not in {g.label for g in alike}
        ),
    )


def _leaders_interval(
    groups: Sequence[RecipeGroup], settings: Options
) -> tuple[Estimate, dict[str, float | None]]:
    """AURAC of the first of m rows, which was picked, and lower ends of its lead over the others.

    Its interval is at ``1 - (1 - level)/m``, and each lower end at ``1 - (1 - level)/(m - 1)``, so
    that all hold together; see `aurac.stats.multiplicity.best`.
    """
    axis, first, error = settings.axis, groups[0], 1 - settings.level
    if not first.has_documents:
        return Estimate(first.point(axis), None, None, None, NO_DOCUMENTS, settings.level), {}
    how: dict[str, Any] = {"axis": axis, "level": 1 - error / max(len(groups) - 1, 1)}
    known = together([group for group in groups if group.has_documents], axis=axis)
    lows = {}
    for group in known[1:]:
        pair = pair_groups(group, known[0], **how, paired_seeds=settings.paired_seeds).result
        lows[group.label] = pair.estimate.low if pair else None
    top = known[0]
    estimate = mean_of_seeds(
        top.areas(axis), top.layout, 1 - error / len(groups), top.drawn_areas(axis)
    )
    return estimate, lows


def _worse(task: str | None, pairs: Sequence[PairRow], alpha: float) -> Iterator[str]:
    """The names of all that a pair on the task shows to be worse."""
    for pair in (pair for pair in pairs if pair.task == task):
        sign = pair.result and verdict(pair.result, pair.p_holm, alpha)
        if sign:
            yield pair.a if sign > 0 else pair.b


@dataclass(frozen=True)
class Advice:
    """The truncation of an adapter with the largest AURAC, and what was shown of it."""

    adapter: str
    task: str | None
    use: str  # the truncation, as ``basis · rescale``
    value: float  # its AURAC on the headline axis, a fraction
    axis: str
    # Truncations that it is significantly better than (paired, Holm over all truncations)
    beats: tuple[str, ...]
    open: tuple[str, ...]  # those to which the difference is not significant

    @property
    def sentence(self) -> str:
        """What to use, no more surely than was shown."""
        where = f" on {self.task}" if self.task else ""
        text = f"{self.adapter}{where}: {self.use} has the largest {area_name(self.axis)}, "
        text += f"{percent(self.value)} %"
        if self.beats:
            text += f"; it is better than {', '.join(self.beats)}"
        if self.open:
            text += f"; its lead over {', '.join(self.open)} is not significant"
        return f"{text}."

    def to_dict(self) -> dict[str, Any]:
        """An element of ``truncations``."""
        return {
            "adapter": self.adapter,
            "task": self.task,
            "use": self.use,
            f"aurac_{self.axis}" if self.axis in BUDGETS else "aurac": self.value,
            "better_than": list(self.beats),
            "not_significant": list(self.open),
        }


def truncation_advice(result: Analysis) -> list[Advice]:
    """One for every adapter and task that was truncated in several ways and scored in two."""
    pairs = {(row.a, row.b, row.task): row for row in result.variants}
    ways: dict[tuple[str, str | None], list[ScoreRow]] = {}
    for row in (row for row in result.scores if row.log2 is not None):
        ways.setdefault((row.adapter, row.task), []).append(row)
    several = (rows for rows in ways.values() if len(rows) > 1)
    return [_advice(rows, pairs, result.axis, 1 - result.level) for rows in several]


def _advice(
    rows: Sequence[ScoreRow],
    pairs: dict[tuple[str, str, str | None], PairRow],
    axis: str,
    alpha: float,
) -> Advice:
    values = {row.truncation: e.value for row in rows if (e := row.estimate(axis)) is not None}
    top = max(rows, key=lambda row: values[row.truncation])
    shown: dict[bool, list[str]] = {True: [], False: []}
    for row in (row for row in rows if row is not top):
        a, b = (f"{one.adapter} · {one.truncation}" for one in (row, top))
        pair = pairs.get((a, b, row.task)) or pairs.get((b, a, row.task))
        sign = verdict(pair.result, pair.p_holm, alpha) if pair and pair.result else None
        better = 1 if pair and pair.b == b else -1
        shown[sign == better].append(row.truncation)
    return Advice(
        adapter=top.adapter,
        task=top.task,
        use=top.truncation,
        value=values[top.truncation],
        axis=axis,
        beats=tuple(shown[True]),
        open=tuple(shown[False]),
    )
