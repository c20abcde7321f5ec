"""The leading adapter of each task, with what its having been picked does to its numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.errors import CurveError
from aurac.stats.analysis_rows import BestRow
from aurac.stats.best import best
from aurac.stats.paired import same_documents
from aurac.stats.wording import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aurac.stats.analysis_rows import Options, PairRow, RecommendRow
    from aurac.stats.groups import RecipeGroup


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
