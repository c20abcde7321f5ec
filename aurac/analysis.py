"""The whole analysis of a set of curves: scores, pairs, aggregates, recommended ranks.

What `aurac score`, `aurac recommend` and a report print, from `Curve` values or a DataFrame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aurac.analysis_rows import (
    AggregateRow,
    Analysis,
    PairRow,
    RecommendRow,
    ScoreRow,
)
from aurac.arms import Arm, Groups, gather
from aurac.curve import Curve
from aurac.errors import CurveError
from aurac.integrate import AXES, check_axis, drops, edge_note, quadrature_weights
from aurac.moments import (
    NO_DOCUMENTS,
    Estimate,
    check_level,
    edge_count,
    is_constant,
    rule_of_three,
)
from aurac.uncertainty.aggregate import aggregate, task_weights
from aurac.uncertainty.holm import holm
from aurac.uncertainty.intervals import choose
from aurac.uncertainty.pairs import compare_arms, gained_and_lost, same_documents, shared_ranks
from aurac.uncertainty.seeds import components, t_from
from aurac.uncertainty.selection import certify
from aurac.uncertainty.wording import verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.uncertainty.seeds import Components

_Name = TypeVar("_Name")
_Row = TypeVar("_Row", Arm, PairRow)


@dataclass(frozen=True)
class Options:
    """What an analysis may be told.

    Attributes:
        axis: The axis that pairs and aggregates are about.
        level: Coverage of intervals; 1 - level is the size of the tests.
        delta: Loss of accuracy that a smaller rank may have, declared beforehand.
        alpha: Error rate of the certificates.
        support: "common" compares curves with unequal ranks on those that both have.
        weigh: "tasks" or "documents": what each task weighs in an aggregate.
        reference: Rank that certificates compare with; None: the largest of each curve.
    """

    axis: str = "log2"
    level: float = 0.95
    delta: float = 0.02
    alpha: float = 0.05
    support: str | None = None
    weigh: str = "tasks"
    reference: int | None = None


def analyse(
    curves: Any,
    *,
    rng: np.random.Generator,
    groups: Groups | None = None,
    **options: Any,
) -> Analysis:
    """Scores with intervals, all pairs, aggregates over tasks, and certified ranks.

    The first curve of an adapter on a task is the adapter's own; further ones, truncated another
    way, are its variants: they are compared with it and never with other adapters, except to tell
    whether a verdict between two adapters survives the choice of truncation.

    Args:
        curves: `Curve` values with `adapter` and `task`, or a DataFrame with columns ``adapter,
            task, rank, doc_id, score`` (optional ``seed, cluster, stratum, metric, sample``).
        rng: For the bootstrap and sign flips; arms are visited in a fixed order.
        groups: ``arm name -> adapter names`` that are training seeds of one recipe.
        **options: Fields of `Options`.

    Raises:
        CurveError: The curves cannot be analysed; says which and why.
    """
    chosen = Options(**options)
    check_axis(chosen.axis)
    check_level(chosen.level)
    task_weights({"": 1}, chosen.weigh)
    arms = gather(_as_curves(curves), groups)
    own, others = split_variants(arms)
    pairs = compare_all(own, rng, chosen)
    return Analysis(
        scores=tuple(score_arm(arm, rng, chosen, variant=arm in others) for arm in arms),
        pairs=_with_robustness(pairs, own, others, rng, chosen),
        variants=_compare_variants(own, others, rng, chosen),
        aggregates=_aggregates(own, pairs, chosen),
        recommended=tuple(recommend_arm(arm, chosen, variant=arm in others) for arm in arms),
        axis=chosen.axis,
        level=chosen.level,
    )


def _as_curves(given: Any) -> list[Curve]:
    if hasattr(given, "columns"):
        from aurac.readers.table import curves_from_frame

        return curves_from_frame(given)
    if isinstance(given, Curve):
        return [given]
    if not isinstance(given, Sequence):
        raise CurveError(f"a {type(given).__name__}", expected="curves or a DataFrame")
    return [Curve.coerce(one) for one in given]


def split_variants(arms: Sequence[Arm]) -> tuple[list[Arm], list[Arm]]:
    """Each adapter's own arm on a task (the first), and its variants."""
    own: dict[tuple[str, str | None], Arm] = {}
    others = [arm for arm in arms if own.setdefault((arm.name, arm.task), arm) is not arm]
    return list(own.values()), others


def score_arm(
    arm: Arm, rng: np.random.Generator, chosen: Options, *, variant: bool = False
) -> ScoreRow:
    """AURAC of an arm on both axes, over documents and, where there are several, seeds."""
    row = ScoreRow(
        adapter=arm.name,
        task=arm.task,
        metric=arm.first.metric,
        truncation=arm.variant,
        variant=variant,
        ranks=arm.ranks,
        accuracy=arm.accuracy,
        n_docs=arm.first.n_docs,
        seeds=arm.seeds,
        baseline=arm.first.baseline,
        reason=arm.gap,
        missing={r: why for c in arm.curves for r, why in c.missing.items()},
    )
    if arm.gap is not None:
        return row
    found = {axis: estimate_arm(arm, axis, rng, chosen.level) for axis in AXES}
    notes = []
    if arm.has_documents:
        note = edge_note(edge_count(arm.areas(chosen.axis).mean(axis=0)))
        notes = [] if note is None else [note]
    return replace(
        row,
        log2=found["log2"],
        linear=found["linear"],
        mean=float(np.mean(arm.accuracy)),
        drops=drops(Curve(arm.ranks, arm.accuracy)),
        notes=tuple(notes),
    )


def estimate_arm(arm: Arm, axis: str, rng: np.random.Generator, level: float) -> Estimate:
    """AURAC of an arm on one axis with the interval that fits."""
    if not arm.has_documents:
        value = float(quadrature_weights(arm.ranks, axis) @ np.asarray(arm.accuracy))
        return Estimate(value, None, None, None, NO_DOCUMENTS, level)
    areas, layout = arm.areas(axis), arm.layout()
    if arm.seeds == 1:
        return choose(areas[0], layout, rng, level)
    if is_constant(areas):
        return rule_of_three(float(areas[0, 0]), layout, level)
    return t_from(components([areas], [1], layout), level, layout.describe(), (0.0, 1.0))


def compare_all(own: Sequence[Arm], rng: np.random.Generator, chosen: Options) -> list[PairRow]:
    """Every pair of arms on the same task, with Holm's adjustment across all of them."""
    by_task: dict[str | None, list[Arm]] = {}
    for arm in own:
        by_task.setdefault(arm.task, []).append(arm)
    rows = [
        compare_pair(a, b, rng, chosen)
        for arms in by_task.values()
        for a, b in combinations(arms, 2)
    ]
    return _with_holm(rows)


def _with_holm(rows: list[PairRow]) -> list[PairRow]:
    adjusted = holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def compare_pair(a: Arm, b: Arm, rng: np.random.Generator, chosen: Options) -> PairRow:
    """One paired difference, b - a, or the reason why there is none.

    Raises:
        CurveError: Documents or prompts differ, or ranks do and `support` is None.
    """
    row = PairRow(a=a.name, b=b.name, task=a.task, axis=chosen.axis)
    if not (a.has_documents and b.has_documents):
        return _point_pair(row, a, b, chosen)
    gap = a.gap or b.gap
    if gap is not None and chosen.support is None:
        return replace(row, reason=gap)
    ranks = shared_ranks(a.first, b.first, chosen.support)
    first, second = a.at(ranks), b.at(ranks)
    order = same_documents(first.first, second.first)
    left, right = first.areas(chosen.axis), second.areas(chosen.axis)
    if order is not None:
        right = right[:, order]
    found = compare_arms(left, right, first.layout(), rng=rng, level=chosen.level)
    gained, lost = gained_and_lost(first.first, second.first, order)
    single = a.seeds == b.seeds == 1
    return replace(
        row,
        ranks=ranks,
        n_docs=left.shape[1],
        found=found,
        gained=gained if single else None,
        lost=lost if single else None,
    )


def _point_pair(row: PairRow, a: Arm, b: Arm, chosen: Options) -> PairRow:
    reason = a.gap or b.gap
    if reason is not None and chosen.support is None:
        return replace(row, reason=reason)
    ranks = shared_ranks(a.first, b.first, chosen.support)
    weights = quadrature_weights(ranks, chosen.axis)
    gap = np.subtract(b.at(ranks).accuracy, a.at(ranks).accuracy)
    return replace(row, ranks=ranks, value=float(weights @ gap), reason=NO_DOCUMENTS)


def _compare_variants(
    own: Sequence[Arm], others: Sequence[Arm], rng: np.random.Generator, chosen: Options
) -> tuple[PairRow, ...]:
    rows = []
    for arm in own:
        mine = [o for o in others if (o.name, o.task) == (arm.name, arm.task)]
        for a, b in combinations([arm, *mine], 2):
            try:
                row = compare_pair(a, b, rng, replace(chosen, support="common"))
            except CurveError as error:  # too few common ranks: no advice, and why
                row = PairRow(a=a.name, b=b.name, task=a.task, axis=chosen.axis, reason=str(error))
            rows.append(replace(row, a=f"{a.name} · {a.variant}", b=f"{b.name} · {b.variant}"))
    return tuple(_with_holm(rows))


def _with_robustness(
    pairs: Sequence[PairRow],
    own: Sequence[Arm],
    others: Sequence[Arm],
    rng: np.random.Generator,
    chosen: Options,
) -> tuple[PairRow, ...]:
    """Say of each pair whether its verdict is the same whichever way the two are truncated."""
    if not others:
        return tuple(pairs)
    ways: dict[tuple[str, str | None], list[Arm]] = {}
    for arm in [*own, *others]:
        ways.setdefault((arm.name, arm.task), []).append(arm)
    common = replace(chosen, support="common")
    rows = []
    for row in pairs:
        first, second = ways[row.a, row.task], ways[row.b, row.task]
        if row.found is None or len(first) + len(second) < 3:
            rows.append(row)
            continue
        seen: dict[str, int | None] = {}
        for a in first:
            for b in second:
                found = compare_pair(a, b, rng, common).found
                sign = None if found is None else verdict(found, None, 1 - chosen.level)
                seen[f"{a.variant} against {b.variant}"] = sign
        rows.append(replace(row, truncations=seen))
    return tuple(rows)


def _aggregates(
    own: Sequence[Arm], pairs: Sequence[PairRow], chosen: Options
) -> tuple[AggregateRow, ...]:
    tasks = list(dict.fromkeys(arm.task or "" for arm in own))
    if len(tasks) < 2:
        return ()
    rows = []
    for name, mine in _by_task((arm.name, arm) for arm in own).items():
        parts = {t: _arm_parts(mine.get(t), chosen.axis) for t in tasks}
        documents = {t: arm.first.n_docs or 0 for t, arm in mine.items()}
        points = any(not arm.has_documents for arm in mine.values())
        rows.append(_aggregate_row(name, None, parts, documents, chosen, points=points))
    for (a, b), found in _by_task(((row.a, row.b), row) for row in pairs).items():
        both = {t: row.found.parts if row.found else None for t, row in found.items()}
        documents = {t: row.n_docs or 0 for t, row in found.items()}
        points = any(row.value is not None for row in found.values())
        parts = {t: both.get(t) for t in tasks}
        rows.append(_aggregate_row(a, b, parts, documents, chosen, points=points))
    return tuple(rows)


def _by_task(named: Iterable[tuple[_Name, _Row]]) -> dict[_Name, dict[str, _Row]]:
    found: dict[_Name, dict[str, _Row]] = {}
    for name, row in named:
        found.setdefault(name, {})[row.task or ""] = row
    return found


def _arm_parts(arm: Arm | None, axis: str) -> Components | None:
    if arm is None or arm.gap is not None or not arm.has_documents:
        return None
    return components([arm.areas(axis)], [1], arm.layout())


def _aggregate_row(
    name: str,
    other: str | None,
    parts: dict[str, Components | None],
    documents: dict[str, int],
    chosen: Options,
    *,
    points: bool,
) -> AggregateRow:
    row = AggregateRow(a=name, b=other, tasks=tuple(parts), weigh=chosen.weigh)
    if points:
        return replace(row, reason=NO_DOCUMENTS)
    try:
        found = aggregate(
            parts, documents, by=chosen.weigh, level=chosen.level, signed=other is not None
        )
    except CurveError as error:  # a missing task, or unequal seeds: no aggregate, and why
        return replace(row, reason=str(error))
    return replace(row, estimate=found)


def recommend_arm(arm: Arm, chosen: Options, *, variant: bool = False) -> RecommendRow:
    """The smallest certified rank of an arm, or the reason why there is none."""
    row = RecommendRow(
        adapter=arm.name,
        task=arm.task,
        truncation=arm.variant,
        variant=variant,
        delta=chosen.delta,
        alpha=chosen.alpha,
    )
    reason = None if arm.has_documents else NO_DOCUMENTS
    if reason is None and len(arm.ranks) < 2:
        reason = arm.gap
    if reason is not None:
        return replace(row, reason=reason)
    found = certify(
        list(arm.curves), delta=chosen.delta, alpha=chosen.alpha, reference=chosen.reference
    )
    return replace(row, certificate=found)
