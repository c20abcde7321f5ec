"""Prefix against SVD: the same adapter cut in two ways, compared on the same documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aurac.errors import CurveError
from aurac.report.blocks import Cell, Column, Table
from aurac.report.comparisons import p_value, with_interval
from aurac.report.pool import seeds_of
from aurac.report.tables import NONE, interval, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.report.model import CurveRow, Run
    from aurac.report.paired import Difference, Paired


@dataclass(frozen=True)
class RankGap:
    """Accuracy of the prefix minus that of the SVD at one rank, with a pointwise interval."""

    rank: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Rival:
    """One adapter cut in two ways; `difference` is None without documents to pair."""

    prefix: CurveRow
    svd: CurveRow
    difference: Difference | None
    gaps: tuple[RankGap, ...]


def rivals(run: Run, task: str, paired: Paired) -> list[Rival]:
    """Every adapter's own prefix truncation against each of its SVD truncations on a task."""
    curves = run.of_task(task)
    found = []
    for svd in (curve for curve in curves if curve.basis == "svd"):
        prefix = _prefix(svd, curves)
        if prefix is not None:
            gap = paired.between(prefix, svd)
            found.append(Rival(prefix, svd, gap, _gaps(prefix, svd)))
    return found


def _prefix(svd: CurveRow, curves: Sequence[CurveRow]) -> CurveRow | None:
    """The adapter's default prefix curve, else any."""
    mine = [c for c in curves if c.adapter == svd.adapter and c.basis == "prefix"]
    return next((c for c in mine if c.is_default), mine[0] if mine else None)


def _gaps(prefix: CurveRow, svd: CurveRow) -> tuple[RankGap, ...]:
    from aurac.stats.groups import same_documents
    from aurac.stats.mean import layout_of
    from aurac.stats.paired import compare_arms

    mine, theirs = seeds_of(prefix), seeds_of(svd)
    if not mine or not theirs:
        return ()
    first = mine[0]
    gaps = []
    for rank in (r for r in prefix.ranks if r in svd.ranks):
        try:
            rows = []
            for several in (theirs, mine):
                orders = [same_documents(first, one) for one in several]
                points = [one.at((rank,)).outcomes for one in several]
                rows.append(
                    np.stack(
                        [
                            p[0] if order is None else p[0][order]
                            for p, order in zip(points, orders, strict=True)
                            if p is not None
                        ]
                    )
                )
            layout = layout_of(first)
            found = compare_arms(rows[0], rows[1], layout, level=0.95).estimate
        except CurveError:
            return ()
        gaps.append(RankGap(rank, found.value, found.low, found.high))
    return tuple(gaps)


def rival_table(task: str, found: Sequence[Rival], name: str) -> Table:
    """The areas of both ways and their paired difference, one row for each pair."""
    rows = tuple(_row(item) for item in found)
    columns = (
        Column("adapter"),
        Column("prefix [95 %]", numeric=True),
        Column("svd [95 %]", numeric=True),
        Column("difference [95 %]", numeric=True),
        Column("p (Holm)", numeric=True),
        Column("detectable", numeric=True),
        Column("reading"),
    )
    caption = (
        f"{task}: the same adapter cut to its first components (prefix) and by SVD, each with its "
        "rescale: AURAC (log2) in percent, prefix minus svd in points over the same documents. "
        "p is adjusted for all the pairs of truncations of this report (Holm)."
    )
    return Table(name, caption, columns, rows)


def _row(item: Rival) -> tuple[Cell, ...]:
    gap = item.difference
    areas = [
        Cell(interval(c.log2), c.log2.value if c.log2 else None) for c in (item.prefix, item.svd)
    ]
    lead = (Cell(_pair(item)), *areas)
    if gap is None:
        return (*lead, Cell(NONE), Cell(NONE), Cell(NONE), Cell("not paired"))
    if not gap.certain:
        reading = "not significant"
    else:
        reading = "prefix is better" if gap.value > 0 else "svd is better"
    return (
        *lead,
        Cell(with_interval(gap), gap.value),
        Cell(p_value(gap.adjusted), gap.adjusted),
        Cell(percent(gap.detectable), gap.detectable),
        Cell(reading),
    )


def _pair(item: Rival) -> str:
    return f"{item.prefix.adapter}, {item.prefix.rescale} against {item.svd.rescale}"


def gap_table(task: str, found: Sequence[Rival], name: str) -> Table | None:
    """Prefix minus SVD at every rank."""
    ranks = sorted({gap.rank for item in found for gap in item.gaps})
    if not ranks:
        return None
    rows = []
    for item in found:
        at = {gap.rank: gap for gap in item.gaps}
        cells = [_gap_cell(at.get(rank)) for rank in ranks]
        rows.append((Cell(_pair(item)), *cells))
    columns = (Column("adapter"), *(Column(f"r = {rank}", numeric=True) for rank in ranks))
    caption = (
        f"{task}: accuracy of the prefix minus that of the SVD at each rank, in points with "
        "pointwise 95 % intervals over the same documents; not adjusted for the number of ranks."
    )
    return Table(name, caption, columns, tuple(rows))


def _gap_cell(gap: RankGap | None) -> Cell:
    if gap is None:
        return Cell(NONE)
    if gap.low is None or gap.high is None:
        return Cell(percent(gap.value), gap.value)
    return Cell(f"{percent(gap.value)} [{percent(gap.low)}, {percent(gap.high)}]", gap.value)
