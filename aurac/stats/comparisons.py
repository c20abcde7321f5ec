"""The pairs of an analysis: every difference, its family for Holm, and whether a verdict survives.

There are two families. One holds every pair of adapters (or arms) on every task, each in its own
truncation; the other every pair of truncations of one adapter. `aurac compare`, `aurac score` and
the report take theirs from here, so a pair has one p value wherever it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.errors import CurveError
from aurac.stats.groups import gained_and_lost, same_documents, shared_ranks
from aurac.stats.mean import NO_DOCUMENTS
from aurac.stats.multiplicity import Family, best, holm
from aurac.stats.paired import compare_arms
from aurac.stats.rows import BestRow, PairRow
from aurac.stats.sentences import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aurac.stats.groups import RecipeGroup
    from aurac.stats.paired import Difference
    from aurac.stats.rows import Analysis, Options, RecommendRow, ScoreRow


def compare_all(own: Sequence[RecipeGroup], settings: Options) -> list[PairRow]:
    """Every pair of arms on the same task, with Holm's adjustment across all of them."""
    by_task: dict[str | None, list[RecipeGroup]] = {}
    for arm in own:
        by_task.setdefault(arm.task, []).append(arm)
    rows = [
        compare_pair(a, b, settings) for arms in by_task.values() for a, b in combinations(arms, 2)
    ]
    return _with_holm(rows)


def _with_holm(rows: list[PairRow]) -> list[PairRow]:
    adjusted = holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def compare_pair(a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairRow:
    """One paired difference, b - a, or the reason why there is none.

    Raises:
        CurveError: Documents or prompts differ, or ranks do and `support` is None; with
            `settings.strict` off that is the row's reason instead.
    """
    row = PairRow(a=a.name, b=b.name, task=a.task, axis=settings.axis)
    try:
        return _compared(row, a, b, settings)
    except CurveError as error:
        if settings.strict:
            raise
        return replace(row, reason=str(error))


def _compared(row: PairRow, a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairRow:
    if not (a.has_documents and b.has_documents):
        return _point_pair(row, a, b, settings)
    gap = a.gap or b.gap
    if gap is not None and settings.support is None:
        return replace(row, reason=gap)
    ranks = shared_ranks(a.first, b.first, settings.support)
    first, second = a.at(ranks), b.at(ranks)
    order = same_documents(first.first, second.first)
    left, right = first.areas(settings.axis), second.areas(settings.axis)
    if order is not None:
        right = right[:, order]
    names = (first.names, second.names)
    layout = first.layout(second, order)
    result = compare_arms(left, right, layout, level=settings.level, names=names)
    gained, lost = gained_and_lost(first.first, second.first, order)
    single = a.seeds == b.seeds == 1
    return replace(
        row,
        ranks=ranks,
        n_docs=left.shape[1],
        result=result,
        gained=gained if single else None,
        lost=lost if single else None,
    )


def _point_pair(row: PairRow, a: RecipeGroup, b: RecipeGroup, settings: Options) -> PairRow:
    reason = a.gap or b.gap
    if reason is not None and settings.support is None:
        return replace(row, reason=reason)
    ranks = shared_ranks(a.first, b.first, settings.support)
    weights = quadrature_weights(ranks, settings.axis)
    gap = np.subtract(b.at(ranks).accuracy, a.at(ranks).accuracy)
    return replace(row, ranks=ranks, value=float(weights @ gap), reason=NO_DOCUMENTS)


def compare_variants(
    own: Sequence[RecipeGroup], others: Sequence[RecipeGroup], settings: Options
) -> tuple[PairRow, ...]:
    """Every pair of truncations of one adapter, on the ranks they share: a family of their own."""
    common = replace(settings, support="common", strict=False)  # no advice, and why, where too few
    rows = []
    for arm in own:
        variants = [o for o in others if (o.name, o.task) == (arm.name, arm.task)]
        for a, b in combinations([arm, *variants], 2):
            row = compare_pair(a, b, common)
            rows.append(replace(row, a=f"{a.name} · {a.variant}", b=f"{b.name} · {b.variant}"))
    return tuple(_with_holm(rows))


def with_robustness(
    pairs: Sequence[PairRow],
    own: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
) -> tuple[PairRow, ...]:
    """Say of each pair whether its verdict is the same whichever way the two are truncated.

    Each other truncation stands in the place of the pair's own, in the same family for Holm.
    """
    if not others:
        return tuple(pairs)
    ways: dict[tuple[str, str | None], list[RecipeGroup]] = {}
    for arm in [*own, *others]:
        ways.setdefault((arm.name, arm.task), []).append(arm)
    common = replace(settings, support="common", strict=False)
    family = Family([row.p for row in pairs])
    rows = []
    for at, row in enumerate(pairs):
        first, second = ways[row.a, row.task], ways[row.b, row.task]
        if row.p is None or len(first) + len(second) < 3:
            rows.append(row)
            continue
        seen: dict[str, int | None] = {}
        for a in first:
            for b in second:
                result = compare_pair(a, b, common).result
                sign = None if result is None else _verdict_as(result, family, at, settings.level)
                seen[f"{a.variant} against {b.variant}"] = sign
        rows.append(replace(row, truncations=seen))
    return tuple(rows)


def _verdict_as(result: Difference, family: Family, at: int, level: float) -> int | None:
    """The verdict of a difference that stands in a family at the place of another."""
    if result.p is None:
        return None
    return verdict(result, family.instead(at, result.p), 1 - level)


def best_rows(
    own: Sequence[RecipeGroup],
    pairs: Sequence[PairRow],
    settings: Options,
    recommend: Callable[[RecipeGroup, Options], RecommendRow],
) -> tuple[BestRow, ...]:
    """The leader of every task on which two adapters or more have documents and an area.

    Args:
        own: Every adapter's own arm on every task.
        pairs: Their paired comparisons.
        settings: What the analysis was told.
        recommend: Finds an arm's smallest non-inferior rank.
    """
    by_task: dict[str | None, list[RecipeGroup]] = {}
    for arm in own:
        if arm.has_documents and arm.gap is None:
            by_task.setdefault(arm.task, []).append(arm)
    rows = []
    for task, arms in by_task.items():
        if len(arms) < 2:
            continue
        row = BestRow(task, len(arms), settings.level)
        try:
            rows.append(_best_row(row, arms, pairs, settings, recommend))
        except CurveError as error:
            rows.append(replace(row, reason=str(error)))
    return tuple(rows)


def _best_row(
    row: BestRow,
    arms: Sequence[RecipeGroup],
    pairs: Sequence[PairRow],
    settings: Options,
    recommend: Callable[[RecipeGroup, Options], RecommendRow],
) -> BestRow:
    first = arms[0]
    if len({arm.ranks for arm in arms}) > 1:
        return replace(row, reason="the adapters were measured at different ranks")
    areas = []
    for arm in arms:
        order = same_documents(first.first, arm.first)
        own = arm.areas(settings.axis)
        areas.append(own if order is None else own[:, order])
    labelled = next((arm for arm in arms if arm.first.clusters or arm.first.strata), first)
    layout = (labelled if labelled.first.doc_ids == first.first.doc_ids else first).layout()
    result = best(
        areas,
        clusters=layout.clusters,
        strata=layout.strata,
        level=settings.level,
    )
    leader = arms[result.leader]
    known = {(pair.a, pair.b): pair for pair in pairs if pair.task == row.task}
    by_score = sorted(arms, key=lambda arm: -float(arm.areas(settings.axis).mean()))
    kept = {arms[at].name for at in result.candidates}
    kept |= {arm.name for arm in arms if not _worse(arm.name, leader.name, known, settings.level)}
    adjusted = replace(settings, alpha=settings.alpha / len(arms))
    return replace(
        row,
        leader=leader.name,
        estimate=result.estimate,
        candidates=tuple(arm.name for arm in by_score if arm.name in kept),
        within=result.within,
        recommended=recommend(leader, adjusted),
    )


def _worse(name: str, leader: str, pairs: Mapping[tuple[str, str], PairRow], level: float) -> bool:
    """Whether the paired comparison with the leader shows an adapter to be worse."""
    pair = pairs.get((name, leader)) or pairs.get((leader, name))
    if pair is None or pair.result is None:
        return False
    sign = verdict(pair.result, pair.p_holm, 1 - level)
    return sign == (1 if pair.b == leader else -1)


@dataclass(frozen=True)
class Advice:
    """The truncation with the largest AURAC, and what was shown of it.

    Attributes:
        use: The truncation, as ``basis · rescale``.
        value: Its AURAC on the headline axis, a fraction.
        beats: Truncations that it is significantly better than (paired, Holm over all truncations).
        open: Truncations that the difference is not significant to.
    """

    adapter: str
    task: str | None
    use: str
    value: float
    beats: tuple[str, ...]
    open: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What to use, no more surely than was shown."""
        where = f" on {self.task}" if self.task else ""
        text = f"{self.adapter}{where}: {self.use} has the largest AURAC, {self.value:.4f}"
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
            "aurac": self.value,
            "better_than": list(self.beats),
            "not_told_apart": list(self.open),
        }


def truncation_advice(result: Analysis) -> list[Advice]:
    """One for every adapter and task that was truncated in several ways and scored in two."""
    pairs = {(row.a, row.b, row.task): row for row in result.variants}
    ways: dict[tuple[str, str | None], list[ScoreRow]] = {}
    for row in result.scores:
        if row.log2 is not None:
            ways.setdefault((row.adapter, row.task), []).append(row)
    return [
        _advice(rows, pairs, result.axis, 1 - result.level)
        for rows in ways.values()
        if len(rows) > 1
    ]


def _advice(
    rows: Sequence[ScoreRow],
    pairs: dict[tuple[str, str, str | None], PairRow],
    axis: str,
    alpha: float,
) -> Advice:
    best = max(rows, key=lambda row: _value(row, axis))
    beats: list[str] = []
    unclear: list[str] = []
    for row in rows:
        if row is best:
            continue
        a, b = (f"{one.adapter} · {one.truncation}" for one in (row, best))
        pair = pairs.get((a, b, row.task)) or pairs.get((b, a, row.task))
        sign = verdict(pair.result, pair.p_holm, alpha) if pair and pair.result else None
        (beats if sign else unclear).append(row.truncation)
    return Advice(
        adapter=best.adapter,
        task=best.task,
        use=best.truncation,
        value=_value(best, axis),
        beats=tuple(beats),
        open=tuple(unclear),
    )


def _value(row: ScoreRow, axis: str) -> float:
    estimate = row.log2 if axis == "log2" else row.linear
    return estimate.value if estimate is not None else -1.0
