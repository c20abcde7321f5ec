"""A task's groups of documents (subjects, members of a task group): an area for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.report.blocks import Cell, Column, Table
from aurac.report.documents import cell
from aurac.report.model import Interval
from aurac.report.pool import seeds_of
from aurac.report.tables import interval, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.report.model import CurveRow, Run
    from aurac.stats.mean import Estimate

SHOWN = 60


@dataclass(frozen=True)
class Group:
    """One curve on one group of a task's documents.

    Attributes:
        name: The group's.
        n_docs: Its documents.
        curve: Whose numbers these are.
        log2: AURAC over these documents.
        accuracy: At each rank of the curve.
        baseline: The base's accuracy; None where its cell was not kept.
    """

    name: str
    n_docs: int
    curve: CurveRow
    log2: Interval
    accuracy: tuple[Interval, ...]
    baseline: float | None


def groups(run: Run, task: str, curves: Sequence[CurveRow]) -> list[Group]:
    """The groups of a task in their stored order, for each of the curves; empty without strata."""
    members = run.task(task).get("members") or []
    found: list[Group] = []
    for curve in curves:
        seeds = seeds_of(curve) if curve.log2 else None
        if seeds and seeds[0].strata and len(set(seeds[0].strata)) > 1:
            found += _of_curve(curve, seeds, members)
    return found


def _of_curve(curve: CurveRow, seeds: Sequence[Curve], members: Sequence[Any]) -> list[Group]:
    strata = seeds[0].strata or ()
    areas = _stacked(seeds, None)
    points = [_stacked(seeds, at) for at in range(len(curve.ranks))]
    base = cell((curve.members or (curve,))[0], 0)
    below = None if base is None else np.array(list(base.scores.values()))
    names = list(dict.fromkeys(strata))
    by_index = names == [str(at) for at in range(len(members))]
    found = []
    for at, name in enumerate(names):
        here = np.array([stratum == name for stratum in strata])
        known = below is not None and below.size == here.size
        found.append(
            Group(
                name=str(members[at]) if by_index else name,
                n_docs=int(here.sum()),
                curve=curve,
                log2=_estimate(areas[:, here]),
                accuracy=tuple(_estimate(rows[:, here]) for rows in points),
                baseline=float(below[here].mean()) if known and below is not None else None,
            )
        )
    return found


def _stacked(seeds: Sequence[Curve], at: int | None) -> NDArray[np.float64]:
    """(S, n) areas, or scores at one rank, in the first seed's order of documents."""
    from aurac.curves.area import document_areas
    from aurac.stats.groups import same_documents

    rows = []
    for one in seeds:
        order = same_documents(seeds[0], one)
        points = one.outcomes
        row = document_areas(one, "log2") if at is None or points is None else points[at]
        rows.append(row if order is None else row[order])
    return np.stack(rows)


def _estimate(values: NDArray[np.float64]) -> Interval:
    from aurac.stats import interval as one_seed
    from aurac.stats import over_seeds

    several = values.shape[0] > 1
    found: Estimate = (
        over_seeds(values) if several else one_seed(values[0], rng=np.random.default_rng(0))
    )
    return Interval(found.value, found.se, found.low, found.high)


def group_table(task: str, found: Sequence[Group], name: str) -> Table:
    """One row for each group, one column for each curve."""
    curves = list({group.curve.id: group.curve for group in found}.values())
    names = list(dict.fromkeys(group.name for group in found))
    at = {(group.name, group.curve.id): group for group in found}
    rows = []
    for row in names[:SHOWN]:
        first = at[row, curves[0].id]
        cells = [at[row, curve.id] for curve in curves]
        rows.append(
            (
                Cell(row),
                Cell(str(first.n_docs), first.n_docs),
                Cell(percent(first.baseline), first.baseline),
                *(Cell(interval(group.log2), group.log2.value) for group in cells),
            )
        )
    columns = (
        Column("group"),
        Column("documents", numeric=True),
        Column("base", numeric=True),
        *(Column(curve.label, numeric=True) for curve in curves),
    )
    left = f" {len(names) - SHOWN} more groups are in groups.csv." if len(names) > SHOWN else ""
    caption = (
        f"{task}: AURAC (log2) in percent with 95 % intervals on each group of its documents. The "
        "intervals are not adjusted for the number of groups: with many, some stand out by "
        f"chance.{left}"
    )
    return Table(name, caption, columns, tuple(rows))
