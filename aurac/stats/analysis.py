"""The whole analysis of a set of curves: scores, pairs, aggregates, recommended ranks.

What `aurac score`, `aurac recommend` and a report print, from `Curve` values or a DataFrame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aurac.curves.area import AXES, check_axis, drops, quadrature_weights
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.comparisons import best_rows, compare_all, compare_variants, with_robustness
from aurac.stats.groups import Groups, RecipeGroup, gather
from aurac.stats.intervals import mean_interval, rule_of_three
from aurac.stats.mean import (
    NO_DOCUMENTS,
    Estimate,
    check_level,
    is_constant,
)
from aurac.stats.noninferiority import certify
from aurac.stats.rows import (
    AggregateRow,
    Analysis,
    BestRow,
    Options,
    PairRow,
    RecommendRow,
    ScoreRow,
)
from aurac.stats.score import score_notes
from aurac.stats.seeds import aggregate, components, estimate_from, task_weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.stats.seeds import Components

_Name = TypeVar("_Name")
_Row = TypeVar("_Row", RecipeGroup, PairRow)


def analyse(
    curves: Any,
    *,
    rng: np.random.Generator | None = None,  # noqa: ARG001
    groups: Groups | None = None,
    **options: Any,
) -> Analysis:
    """Scores with intervals, all pairs, aggregates over tasks, and non-inferior ranks.

    The first curve of an adapter on a task is the adapter's own; further ones, truncated another
    way, are its variants: they are compared with it and never with other adapters, except to tell
    whether a verdict between two adapters survives the choice of truncation.

    Args:
        curves: `Curve` values with `adapter` and `task`, or a DataFrame with columns ``adapter,
            task, rank, doc_id, score`` (optional ``seed, cluster, stratum, metric, sample``).
        rng: Accepted and not used: nothing is drawn.
        groups: ``arm name -> adapter names`` that are training seeds of one recipe.
        **options: Fields of `Options`.

    Raises:
        CurveError: The curves cannot be analysed; says which and why.
    """
    settings = Options(**options)
    check_axis(settings.axis)
    check_level(settings.level)
    task_weights({"": 1}, settings.weigh)
    arms = gather(_as_curves(curves), groups)
    own, others = split_variants(arms)
    pairs = compare_all(own, settings)
    return Analysis(
        scores=tuple(score_arm(arm, settings, variant=arm in others) for arm in arms),
        pairs=with_robustness(pairs, own, others, settings),
        variants=compare_variants(own, others, settings),
        aggregates=_aggregates(own, pairs, settings),
        recommended=tuple(recommend_arm(arm, settings, variant=arm in others) for arm in arms),
        best=best_rows(own, pairs, settings, recommend_arm),
        axis=settings.axis,
        level=settings.level,
    )


def _as_curves(source: Any) -> list[Curve]:
    if hasattr(source, "columns"):
        from aurac.readers.table import curves_from_frame

        return curves_from_frame(source)
    if isinstance(source, Curve):
        return [source]
    if not isinstance(source, Sequence):
        raise CurveError(f"a {type(source).__name__}", expected="curves or a DataFrame")
    return [Curve.coerce(one) for one in source]


def split_variants(arms: Sequence[RecipeGroup]) -> tuple[list[RecipeGroup], list[RecipeGroup]]:
    """Each adapter's own arm on a task (the first), and its variants."""
    own: dict[tuple[str, str | None], RecipeGroup] = {}
    others = [arm for arm in arms if own.setdefault((arm.name, arm.task), arm) is not arm]
    return list(own.values()), others


def score_curve(curve: Curve) -> ScoreRow:
    """The row that `analyse` gives for a curve, whichever others it is analysed with."""
    return score_arm(gather([curve])[0], Options())


def paired_family(curves: Sequence[Curve], *, groups: Groups | None = None) -> list[PairRow]:
    """The pairs and the variants of `analyse`, and nothing else; pairs that cannot be say why."""
    settings = Options(strict=False)
    own, others = split_variants(gather(curves, groups))
    return [*compare_all(own, settings), *compare_variants(own, others, settings)]


def leaders(
    curves: Sequence[Curve],
    pairs: Sequence[PairRow],
    *,
    groups: Groups | None = None,
    delta: float,
) -> dict[str | None, BestRow]:
    """The leader of each task as `analyse` finds it, from the rows of `paired_family`."""
    options = Options(strict=False, delta=delta)
    own, _ = split_variants(gather(curves, groups))
    return {row.task: row for row in best_rows(own, pairs, options, recommend_arm)}


def score_arm(arm: RecipeGroup, settings: Options, *, variant: bool = False) -> ScoreRow:
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
    result = {axis: estimate_arm(arm, axis, settings.level) for axis in AXES}
    return replace(
        row,
        log2=result["log2"],
        linear=result["linear"],
        mean=float(np.mean(arm.accuracy)),
        drops=drops(Curve(arm.ranks, arm.accuracy)),
        notes=score_notes(result[check_axis(settings.axis)]) if arm.has_documents else (),
    )


def estimate_arm(arm: RecipeGroup, axis: str, level: float) -> Estimate:
    """AURAC of an arm on one axis with the interval that fits."""
    if not arm.has_documents:
        value = float(quadrature_weights(arm.ranks, axis) @ np.asarray(arm.accuracy))
        return Estimate(value, None, None, None, NO_DOCUMENTS, level)
    areas, layout = arm.areas(axis), arm.layout()
    if arm.seeds == 1:
        return mean_interval(areas[0], layout, level)
    if is_constant(areas):
        return rule_of_three(float(areas[0, 0]), layout, level)
    return estimate_from(components([areas], [1], layout), level, layout.describe(), (0.0, 1.0))


def _aggregates(
    own: Sequence[RecipeGroup], pairs: Sequence[PairRow], settings: Options
) -> tuple[AggregateRow, ...]:
    tasks = list(dict.fromkeys(arm.task or "" for arm in own))
    if len(tasks) < 2:
        return ()
    rows = []
    for name, by_task in _by_task((arm.name, arm) for arm in own).items():
        parts = {t: _arm_parts(by_task.get(t), settings.axis) for t in tasks}
        documents = {t: arm.first.n_docs or 0 for t, arm in by_task.items()}
        points = any(not arm.has_documents for arm in by_task.values())
        rows.append(_aggregate_row(name, None, parts, documents, settings, points=points))
    for (a, b), result in _by_task(((row.a, row.b), row) for row in pairs).items():
        both = {t: row.result.parts if row.result else None for t, row in result.items()}
        documents = {t: row.n_docs or 0 for t, row in result.items()}
        points = any(row.value is not None for row in result.values())
        parts = {t: both.get(t) for t in tasks}
        rows.append(_aggregate_row(a, b, parts, documents, settings, points=points))
    return tuple(rows)


def _by_task(named: Iterable[tuple[_Name, _Row]]) -> dict[_Name, dict[str, _Row]]:
    result: dict[_Name, dict[str, _Row]] = {}
    for name, row in named:
        result.setdefault(name, {})[row.task or ""] = row
    return result


def _arm_parts(arm: RecipeGroup | None, axis: str) -> Components | None:
    if arm is None or arm.gap is not None or not arm.has_documents:
        return None
    return components([arm.areas(axis)], [1], arm.layout(), names=[arm.names])


def _aggregate_row(
    name: str,
    other: str | None,
    parts: dict[str, Components | None],
    documents: dict[str, int],
    settings: Options,
    *,
    points: bool,
) -> AggregateRow:
    row = AggregateRow(a=name, b=other, tasks=tuple(parts), weigh=settings.weigh)
    if points:
        return replace(row, reason=NO_DOCUMENTS)
    try:
        result = aggregate(
            parts, documents, by=settings.weigh, level=settings.level, signed=other is not None
        )
    except CurveError as error:  # a missing task, or unequal seeds: no aggregate, and why
        return replace(row, reason=str(error))
    return replace(row, estimate=result)


def recommend_arm(arm: RecipeGroup, settings: Options, *, variant: bool = False) -> RecommendRow:
    """The smallest non-inferior rank of an arm, or the reason why there is none."""
    row = RecommendRow(
        adapter=arm.name,
        task=arm.task,
        truncation=arm.variant,
        variant=variant,
        delta=settings.delta,
        alpha=settings.alpha,
    )
    reason = None if arm.has_documents else NO_DOCUMENTS
    if reason is None and len(arm.ranks) < 2:
        reason = arm.gap
    if reason is not None:
        return replace(row, reason=reason)
    result = certify(
        list(arm.curves), delta=settings.delta, alpha=settings.alpha, reference=settings.reference
    )
    return replace(row, certificate=result)
