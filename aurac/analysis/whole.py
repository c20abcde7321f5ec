"""The whole analysis of a set of curves: scores, pairs, aggregates, recommended ranks.

What `aurac score`, `aurac recommend` and a report print, from `Curve` values or a DataFrame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aurac.analysis.caveats import caveats_of, caveats_of_run
from aurac.analysis.choice import above_base, choose, recommend
from aurac.analysis.comparisons import Comparisons, best_rows, compare_rows, with_robustness
from aurac.analysis.findings import look_closely, truncation_advice
from aurac.analysis.groups import Groups, RecipeGroup, defaults, find_groups, gather, group_of
from aurac.analysis.of_study import within_study
from aurac.analysis.old_score import score, score_notes
from aurac.analysis.primary import declaration, declared_as
from aurac.analysis.record import Analysis, Budget, Closely
from aurac.analysis.rows import AggregateRow, Options, PairRow, ScoreRow, grouped
from aurac.arguments import converted, keywords, kind_of
from aurac.curves.area import AXES, BUDGETS, check_axis, check_budgets, drops
from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.curves.display import percent
from aurac.errors import CurveError, UsageError
from aurac.records.run import seeds_of
from aurac.stats.mean import NO_DOCUMENTS, Estimate, check_level
from aurac.stats.multiplicity import aggregate, task_weights
from aurac.stats.seeds import components, far_seeds, mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.analysis.choice_rows import Choice, RankRow
    from aurac.records.run import CurveRow, StoredRun
    from aurac.stats.seeds import Components

SEVERAL_METRICS = "a task has several metrics: score one at a time (--metric)"
_Name = TypeVar("_Name")
_Row = TypeVar("_Row", RecipeGroup, PairRow)


@keywords(
    also=dict.fromkeys(Options.__annotations__, "set it in settings: aurac.analysis.Options(…)")
)
def analyse(
    curves: Any,
    settings: Options | None = None,
    *,
    groups: Groups | None = None,
    checkpoints: Sequence[Curve] | None = None,
    budgets: str | Sequence[str] = (),
    choices: bool = True,
) -> Analysis:
    """Scores with intervals, all pairs, aggregates over tasks, and non-inferior ranks.

    An adapter's default truncation on a task is the one whose curves have that role, or else its
    first. Further ones, truncated another way, are compared with it and never with other adapters,
    except to tell whether a verdict between two adapters survives the choice of truncation. The
    order of the curves changes nothing else. ::

        asked = aurac.analysis.Options(margin=0.02, primary="matryoshka,lora")
        aurac.analysis.analyse(run.curves, asked, groups=run.results.groups).recommended

    Args:
        curves: `Curve` values with `adapter` and `task`, or a DataFrame with columns ``adapter,
            task, rank, doc_id, score`` (optional ``seed, cluster, stratum, metric, sample``).
        settings: What is asked; by default nothing but the scores and the pairs.
        groups: ``name -> adapter names`` that are training seeds of one recipe.
        checkpoints: Single trainings whose own ranks are recommended, as a report does. None: the
            leading curves are not looked at closely either.
        budgets: "parameters", "bytes" or both: AURAC over these too.
        choices: Whether to say which configuration to ship, and the margin that each would need.

    Raises:
        CurveError: The curves cannot be analysed; says which and why.
        DataError: A table that cannot be read.
        UsageError: Settings that are no `Options`, groups that are no mapping, or another budget.
    """
    settings = Options() if settings is None else settings
    if not isinstance(settings, Options):
        raise UsageError(f"{settings=!r:.80}", expected="aurac.analysis.Options(axis=…)")
    primary = declared_as(settings.primary)
    settings = replace(settings, primary=primary)
    groups = converted(groups or {}, Mapping[str, Sequence[str]], "groups")
    budgets = check_budgets(budgets)
    check_axis(settings.axis)
    check_level(settings.level)
    task_weights({"": 1}, settings.weigh)
    every = gather(_as_curves(curves), groups)
    default, others = defaults(every)
    compared = compare_rows(default, others, settings)
    pairs, variants = compared.pairs, compared.variants
    asked = every
    if (name := settings.adapter) is not None:
        asked = find_groups(name, default, every, f"adapter {name!r}")
    tasks = grouped(every, lambda group: group.task)
    declared = settings.margin is not None or settings.min_accuracy is not None
    recommended = tuple(
        recommend(group, settings, others=others, task=tasks[group.task])
        for group in (asked if declared else ())
    )
    scores = tuple(score_group(group, settings, other=group in others) for group in every)
    best = best_rows(default, others, (*pairs, *variants), settings)
    closely = Closely()
    if checkpoints is not None:
        singles = [group_of(curve) for curve in checkpoints]
        closely = look_closely(every, others, scores, best, singles, settings)
    return Analysis(
        scores=scores,
        pairs=with_robustness(pairs, variants, default, others, settings),
        variants=variants,
        aggregates=_aggregates(default, compared, settings),
        recommended=recommended,
        best=best,
        advice=truncation_advice(scores, variants, settings.axis),
        choices=_choices(tasks, asked, others, settings, recommended) if choices else (),
        axis=settings.axis,
        level=settings.level,
        primary=primary,
        caveats=caveats_of(scores),
        closely=closely,
        budgets=tuple(_over_budget(default, others, axis, settings) for axis in budgets),
    )


def _choices(
    tasks: Mapping[str | None, Sequence[RecipeGroup]],
    asked: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
    recommended: Sequence[RankRow],
) -> tuple[Choice, ...]:
    """The configurations asked about of each task; of a single curve, what its row says."""
    wanted = grouped(asked, lambda group: group.task)
    alone = {row.task: row.choice for row in recommended if len(wanted[row.task]) == 1}
    return tuple(
        alone.get(task) or choose(same, settings, others=others, task=tasks[task])
        for task, same in wanted.items()
    )


def _as_curves(source: Any) -> list[Curve]:
    if hasattr(source, "columns"):
        from aurac.readers.table import curves_from_frame

        return curves_from_frame(source)
    if isinstance(source, Curve):
        return [source]
    if isinstance(source, str) or not isinstance(source, Sequence):
        fix = "give its .curves" if hasattr(source, "curves") else None
        if isinstance(source, (str, Path)):
            fix = "give aurac.readers.read_curves(path).curves"
        raise CurveError(kind_of(source), expected="curves or a DataFrame", fix=fix)
    return [as_curve(curve) for curve in source]


def over_budget(curves: Sequence[Curve], axis: str, *, groups: Groups | None = None) -> Budget:
    """AURAC over a budget of all curves that know it, without pairs.

    Args and errors as of `analyse`.
    """
    default, others = defaults(gather(curves, groups))
    return _over_budget(default, others, check_axis(axis), Options(), pairs=False)


def _over_budget(
    default: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    axis: str,
    settings: Options,
    *,
    pairs: bool = True,
) -> Budget:
    settings = replace(settings, axis=axis, strict=False)
    known, reasons = [], []
    for group in (*default, *others):
        try:
            if group.gap is not None:
                raise CurveError(group.gap)
            known.append((score_group(group, settings, other=group in others), group))
        except CurveError as error:
            name = group.label if group in others else group.name
            reasons.append((group.task, name, error.given))
    known.sort(key=lambda each: -(each[0].budget.value if each[0].budget else 0.0))
    rows, groups = tuple(row for row, _ in known), [group for _, group in known]
    if not pairs:
        return Budget(axis, rows, reasons=tuple(reasons))
    first, rest = ([g for g in some if g in groups] for some in (default, others))
    compared = compare_rows(first, rest, settings)
    return Budget(axis, rows, (*compared.pairs, *compared.variants), tuple(reasons))


def analyse_run(run: StoredRun, margin: float | None, axes: Sequence[str]) -> Analysis:
    """The analysis of a run; where its curves do not fit together one without rows, and why."""
    curves, groups = curves_of(run.curves)
    declared = declaration((), run.primary, (c.adapter for c in curves), {}, finished=True)
    settings = Options(margin=margin, strict=False, primary=declared)
    singles, result = _checkpoints(run), Analysis(reason="no curve is stored")
    try:
        if curves:
            result = analyse(curves, settings, groups=groups, checkpoints=singles, budgets=axes)
    except CurveError as error:
        result = Analysis(reason=error.text)
    result = replace(result, caveats=(*result.caveats, *caveats_of_run(run)))
    return within_study(result, run.roots)


def curves_of(rows: Sequence[CurveRow]) -> tuple[list[Curve], dict[str, list[str]]]:
    """The curves of rows, with documents where there are any, default truncations first; groups."""
    curves, groups = list[Curve](), {}
    for row in sorted(rows, key=lambda curve: not curve.is_default):
        seeds = list(seeds_of(row) or ())
        if not seeds and row.record and row.ranks:  # its means alone
            seeds = [replace(as_curve(row.record), intervals={})]
        if row.members:
            groups[row.adapter] = [row.adapter]
        curves += [replace(seed, adapter=row.adapter) for seed in seeds]
    return curves, groups


def _checkpoints(run: StoredRun) -> list[Curve]:
    """Single trainings in their default truncation, with the documents of all of their ranks."""
    rows = [row for curve in run.curves if curve.is_default for row in curve.members or (curve,)]
    known = ((row, curve) for row in rows for curve in seeds_of(row) or ())
    return [curve for row, curve in known if curve.ranks == row.ranks]


def budget_areas(curves: Sequence[CurveRow], axis: str) -> tuple[dict[str, Estimate], list[str]]:
    """AURAC over a budget by the id of a curve of one task, and why other curves have none."""
    rows = {name: row for row in curves for name in (row.adapter, row.full_name)}
    rows |= {row.adapter: row for row in curves if row.is_default}
    known, groups = curves_of(curves)
    budget = over_budget(known, axis, groups=groups)
    areas = {rows[row.label].id: row.budget for row in budget.scores if row.budget}
    named = [(rows[name].label, why) for _, name, why in budget.reasons]
    return areas, [f"{why}." if name in why else f"{name}: {why}." for name, why in named]


def score_curve(curve: Curve) -> ScoreRow:
    """The row that `analyse` gives for a curve, whichever others it is analysed with."""
    return score_group(gather([curve])[0], Options())


def paired_family(curves: Sequence[Curve], *, groups: Groups | None = None) -> list[PairRow]:
    """The pairs and the variants of `analyse`, and nothing else; pairs that cannot be say why."""
    compared = compare_rows(*defaults(gather(curves, groups)), Options(strict=False))
    return [*compared.pairs, *compared.variants]


def score_group(group: RecipeGroup, settings: Options, *, other: bool = False) -> ScoreRow:
    """AURAC of a group on both axes, over documents and, where there are several, seeds."""
    row = ScoreRow(
        adapter=group.name,
        task=group.task,
        metric=group.first.metric,
        truncation=group.truncation,
        other=other,
        ranks=group.ranks,
        accuracy=group.accuracy,
        n_docs=group.first.n_docs,
        seeds=group.seeds,
        baseline=group.first.baseline,
        reason=group.gap,
        missing={r: why for c in group.curves for r, why in c.missing.items()},
        published=group.first.role == "published",
        above_base=above_base(group, settings.alpha),
    )
    if group.gap is not None:
        return row
    headline = check_axis(settings.axis)
    axes = dict.fromkeys((*AXES, headline))
    result = {axis: estimate_group(group, axis, settings.level) for axis in axes}
    return replace(
        row,
        log2=result["log2"],
        linear=result["linear"],
        axis=headline,
        budget=result[headline] if headline in BUDGETS else None,
        span=group.span_on(headline),
        mean=float(np.mean(group.accuracy)),
        drops=drops(Curve(group.ranks, group.accuracy)),
        notes=(*score_notes(result[headline]), *seed_notes(group, headline))
        if group.has_documents
        else (),
    )


def seed_notes(group: RecipeGroup, axis: str) -> list[str]:
    """What to know of each seed that lies far from the others of a group with documents."""
    (seeds,), notes = components([group.areas(axis)], [1], group.layout).groups, []
    means = seeds.seed_means
    for place in far_seeds(seeds):
        curve, others = group.curves[place], np.delete(means, place)
        name = curve.adapter if curve.seed is None else f"seed {curve.seed}"
        notes.append(
            f"{name} lies far from the others ({percent(means[place])} %, they "
            f"{percent(others.min())} to {percent(others.max())} %): intervals and tests over "
            "seeds assume that seeds vary about normally"
        )
    return notes


def estimate_group(group: RecipeGroup, axis: str, level: float) -> Estimate:
    """AURAC of a group on one axis with the interval that fits."""
    if not group.has_documents and group.seeds == 1 and axis in AXES:
        return score(group.first, axis=axis, level=level).estimate
    if not group.has_documents:
        return Estimate(group.point(axis), None, None, None, NO_DOCUMENTS, level)
    return mean_of_seeds(group.areas(axis), group.layout, level, group.drawn_areas(axis))


def _aggregates(
    default: Sequence[RecipeGroup], compared: Comparisons, settings: Options
) -> tuple[AggregateRow, ...]:
    tasks = _tasks_apart(default)
    if len(tasks) < 2:
        return ()
    own = {group.first.task for group in default}
    several = SEVERAL_METRICS if len({group.task for group in default}) > len(own) else None
    rows = []
    for name, by_task in _by_task((group.name, group) for group in default).items():
        row = AggregateRow(name, None, tuple(tasks), settings.weigh, axis=settings.axis)
        parts = {t: _parts(by_task.get(t), settings.axis) for t in tasks}
        documents = {t: group.first.n_docs or 0 for t, group in by_task.items()}
        points = any(not group.has_documents for group in by_task.values())
        why = NO_DOCUMENTS if points else several
        rows.append(_aggregated(row, parts, documents, settings, why))
    parts_of = dict(zip(map(id, compared.pairs), compared.parts, strict=True))
    for (a, b), same in _by_task(((row.a, row.b), row) for row in compared.pairs).items():
        row = AggregateRow(a, b, tuple(tasks), settings.weigh, axis=settings.axis)
        documents = {t: pair.n_docs or 0 for t, pair in same.items()}
        points = any(p.estimate is None and p.value is not None for p in same.values())
        parts = {t: parts_of[id(same[t])] if t in same else None for t in tasks}
        why = NO_DOCUMENTS if points else several
        rows.append(_aggregated(row, parts, documents, settings, why))
    return tuple(rows)


def _tasks_apart(default: Sequence[RecipeGroup]) -> list[str]:
    """Tasks without those whose documents are all in another: they count once.

    So are the members of a group that stand beside it, and a second metric of the same task.
    """
    documents: dict[str, Counter[str]] = {}
    for group in default:
        documents.setdefault(group.task or "", Counter(group.first.doc_hashes or ()))
    largest_first = sorted(documents, key=lambda task: (-documents[task].total(), task))
    kept: list[str] = []
    for task in largest_first:
        if not (documents[task] and any(documents[task] <= documents[other] for other in kept)):
            kept.append(task)
    return [task for task in documents if task in kept]


def _by_task(named: Iterable[tuple[_Name, _Row]]) -> dict[_Name, dict[str, _Row]]:
    result: dict[_Name, dict[str, _Row]] = {}
    for name, row in named:
        result.setdefault(name, {})[row.task or ""] = row
    return result


def _parts(group: RecipeGroup | None, axis: str) -> Components | None:
    if group is None or group.gap is not None or not group.has_documents:
        return None
    areas, draws = group.areas(axis), group.drawn_areas(axis)
    return components([areas], [1], group.layout, names=[group.names], draws=draws)


def _aggregated(
    row: AggregateRow,
    parts: dict[str, Components | None],
    documents: dict[str, int],
    settings: Options,
    reason: str | None,
) -> AggregateRow:
    if reason:
        return replace(row, reason=reason)
    options: dict[str, Any] = {"by": settings.weigh, "level": settings.level}
    try:
        result = aggregate(parts, documents, **options, signed=row.b is not None)
    except CurveError as error:  # a missing task, or unequal seeds: no aggregate, and why
        return replace(row, reason=error.text)
    return replace(row, estimate=result)
