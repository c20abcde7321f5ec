"""AURAC over a budget in a report: parameters or bytes of the adapters in the place of rank.

Each area is over the sizes of its own curve, a difference over those that both were measured at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.analysis.analyse import over_budget
from aurac.curves.area import ALIKE, area_name
from aurac.curves.display import show_span
from aurac.show import tables
from aurac.show.comparisons import Compared, Difference, curves_of
from aurac.show.content import Bullets, Section, Text
from aurac.show.model import Interval, as_interval
from aurac.show.table import Cell, Table, estimate, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.record import Budget
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
class BudgetView:
    """What a run shows over a budget: areas, the largest first, and differences.

    `pairs` are of two default curves, and of two truncations of one adapter; `reasons` say why
    curves have no area here.
    """

    axis: str
    areas: tuple[BudgetArea, ...]
    pairs: tuple[Difference, ...]
    reasons: tuple[str, ...]


def shown_budget(budget: Budget, compared: Compared) -> BudgetView:
    """A budget of the analysis by the rows that the report shows."""
    areas = [
        BudgetArea(compared.row(row.task, row.label), as_interval(row.budget), row.span)
        for row in budget.scores
        if row.budget and row.span
    ]
    reasons = [
        f"{compared.row(task, name).label} on {one_line(task)}: {one_line(why)}."
        for task, name, why in budget.reasons
    ]
    reasons += [one_line(pair.sentence, 400) for pair in budget.pairs if pair.result is None]
    pairs = compared.differences(budget.pairs)
    return BudgetView(budget.axis, tuple(areas), tuple(pairs), tuple(reasons))


def budget_areas(curves: Sequence[CurveRow], axis: str) -> tuple[dict[str, Interval], list[str]]:
    """AURAC over a budget by the id of a curve, and why other curves have none."""
    rows = {name: row for row in curves for name in (row.adapter, row.full_name)}
    rows |= {row.adapter: row for row in curves if row.is_default}
    known, groups = curves_of(curves)
    budget = over_budget(known, axis, groups=groups)
    areas = {rows[row.label].id: as_interval(row.budget) for row in budget.scores if row.budget}
    return areas, [f"{rows[name].label}: {why}." for _, name, why in budget.reasons]


def section(run: Run, budget: BudgetView, pictures: Pictures) -> Section:
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
