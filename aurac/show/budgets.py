"""AURAC over a budget in a report: parameters or bytes of the adapters in the place of rank.

Each area is over the sizes of its own curve, a difference over those that both were measured at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aurac.analysis.analyse import estimate_group
from aurac.curves.area import ALIKE, area_name, shared_span
from aurac.curves.coerce import as_curve
from aurac.curves.display import show_span
from aurac.errors import CurveError
from aurac.show import tables
from aurac.show.comparisons import Compared, Difference
from aurac.show.content import Bullets, Section, Text
from aurac.show.documents import seeds_of
from aurac.show.escape import one_line
from aurac.show.model import LEVEL, Interval, as_interval
from aurac.show.table import Cell, Table, estimate, table
from aurac.stats.groups import group_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.curves.area import Span
    from aurac.show.content import Block
    from aurac.show.model import CurveRow, Run
    from aurac.show.pictures import Pictures

_MAX_ROWS = 40


@dataclass(frozen=True)
class BudgetArea:
    """AURAC of a curve over a budget, over the amounts that the curve has."""

    curve: CurveRow
    area: Interval
    span: Span


@dataclass(frozen=True)
class Budget:
    """What a run shows over a budget: areas, the largest first, and differences.

    `pairs` are of two default curves, and of two truncations of one adapter; `reasons` say why
    curves have no area here.
    """

    axis: str
    areas: tuple[BudgetArea, ...]
    pairs: tuple[Difference, ...]
    reasons: tuple[str, ...]


def over_budget(run: Run, axis: str) -> Budget:
    """Look at a run over a budget."""
    areas, reasons = budget_areas(run.curves, axis)
    compared = Compared(replace(run, curves=tuple(one.curve for one in areas)), None, axis)
    untested = (pair for pair in (compared.analysis.pairs if compared.analysis else ()))
    reasons += [one_line(pair.sentence, 400) for pair in untested if pair.result is None]
    return Budget(axis, tuple(areas), tuple(compared.pairs), tuple(reasons))


def budget_areas(curves: Iterable[CurveRow], axis: str) -> tuple[list[BudgetArea], list[str]]:
    """AURAC over a budget, the largest first, and why other curves have none."""
    areas, reasons = [], []
    for row in curves:
        try:
            seeds = seeds_of(row) or ([as_curve(row.record)] if row.record else [])
            group = group_of(seeds)
            if group.gap is not None:
                raise CurveError(group.gap)
            area = as_interval(estimate_group(group, axis, LEVEL))
            areas.append(BudgetArea(row, area, shared_span(group.curves, axis)))
        except CurveError as error:
            reasons.append(f"{row.label} on {one_line(row.task)}: {one_line(error.given)}.")
    areas.sort(key=lambda one: -one.area.value)
    return areas, reasons


def section(run: Run, budget: Budget, pictures: Pictures) -> Section:
    """The figure, the areas and the differences of each task."""
    name = area_name(budget.axis)
    blocks: list[Block] = [
        Text(
            f"Here the axis is log2 of the {budget.axis} of the truncated adapter, not its rank. "
            "Each area is over the sizes that its own curve has; areas over different sizes do "
            "not compare. A difference is over the sizes that both adapters were measured at "
            f"(within {ALIKE - 1:.0%}); adapters with fewer than two of them are not compared."
        )
    ]
    for task in run.task_names:
        areas = [one for one in budget.areas if one.curve.task == task]
        pairs = [one for one in budget.pairs if one.first.task == task]
        if areas:
            slug = pictures.slugs[task]
            drawn = {one.curve.id: one.area for one in areas}
            blocks.append(pictures.rank_accuracy(task, budget.axis, areas=drawn))
            blocks.append(_table(task, areas[:_MAX_ROWS], budget.axis, f"{budget.axis}-{slug}"))
        if pairs:
            shown = pairs[:_MAX_ROWS]
            blocks.append(tables.difference_table(task, shown, f"paired-{budget.axis}-{slug}"))
    blocks += [Bullets(budget.reasons)] if budget.reasons else []
    return Section(f"over-{budget.axis}", name, tuple(blocks))


def _table(task: str, areas: Sequence[BudgetArea], axis: str, name: str) -> Table:
    rows = tuple(
        (
            Cell(one.curve.label),
            estimate(one.area),
            Cell(show_span(one.span, axis), one.span[0]),
            Cell(tables.rank_range(one.curve)),
            Cell(one.curve.truncation),
        )
        for one in areas
    )
    measured = tables.measured_on(one.curve for one in areas)
    caption = f"{task}: {area_name(axis)} in percent with 95 % intervals, largest first; {measured}"
    titles, last = (f"{area_name(axis)} [95 %]", axis), ("ranks", "truncation")
    return table(name, caption, rows, "adapter", numeric=titles, last=last)
