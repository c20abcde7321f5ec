"""The pairs of an analysis: every difference, its family for Holm, and whether a verdict survives.

There are two families. One holds every pair of adapters (or arms) on every task, each in its own
truncation; the other every pair of truncations of one adapter. `aurac compare`, `aurac score` and
the report take theirs from here, so a pair has one p value wherever it is printed.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.errors import CurveError
from aurac.stats.analysis_rows import PairRow
from aurac.stats.mean import NO_DOCUMENTS
from aurac.stats.multiplicity import Family, holm
from aurac.stats.paired import compare_arms, gained_and_lost, same_documents, shared_ranks
from aurac.stats.wording import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.stats.analysis_rows import Options
    from aurac.stats.groups import RecipeGroup
    from aurac.stats.paired import Difference


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
