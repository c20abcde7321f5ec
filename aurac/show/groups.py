"""Groups of a task's documents: the area and the accuracies on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aurac.show.appearance import LABEL_CHARS, LABEL_SIZE, Styles, key, styles
from aurac.show.documents import outcomes, seeds_of
from aurac.show.escape import one_line
from aurac.show.model import LEVEL, Interval, as_interval
from aurac.show.table import Cell, Table, estimate, number, share, table
from aurac.stats.groups import group_of
from aurac.stats.mean import Layout
from aurac.stats.seeds import mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from aurac.show.model import CurveRow

_MAX_GROUPS = 60


@dataclass(frozen=True)
class Group:
    """One curve on one group of a task's documents.

    `accuracy` is at each rank of the curve; the base's is None where its cell was not kept.
    """

    name: str
    n_docs: int
    curve: CurveRow
    log2: Interval
    accuracy: tuple[Interval, ...]
    baseline: float | None


def document_groups(curves: Sequence[CurveRow]) -> list[Group]:
    """The groups of a task in their stored order, for each of the curves; empty without strata."""
    groups: list[Group] = []
    for curve in curves:
        seeds = seeds_of(curve) if curve.log2 else None
        strata = np.array((seeds[0].strata or ()) if seeds else ())
        names = list(dict.fromkeys(strata.tolist()))
        if not seeds or len(names) < 2:
            continue
        recipe = group_of(seeds)
        values = [recipe.areas("log2"), *(recipe.scores(rank) for rank in curve.ranks)]
        base = outcomes((curve.members or (curve,))[0], 0)
        for name in names:
            keep = strata == name
            clusters = np.array(recipe.first.clusters)[keep] if recipe.first.clusters else None
            layout = Layout.make(int(keep.sum()), clusters)
            area, *points = (as_interval(mean_of_seeds(v[:, keep], layout, LEVEL)) for v in values)
            known = base is not None and base.scores.size == keep.size
            baseline = float(base.scores[keep].mean()) if known and base else None
            groups.append(Group(name, layout.n, curve, area, tuple(points), baseline))
    return groups


def group_table(task: str, groups: Sequence[Group], name: str) -> Table:
    """One row for each group, one column for each curve."""
    curves = list({group.curve.id: group.curve for group in groups}.values())
    names = list(dict.fromkeys(group.name for group in groups))
    at = {(group.name, group.curve.id): group for group in groups}
    rows = []
    for row in names[:_MAX_GROUPS]:
        first = at[row, curves[0].id]
        areas = (estimate(at[row, curve.id].log2) for curve in curves)
        rows.append((Cell(row), number(first.n_docs), share(first.baseline), *areas))
    left = len(names) - _MAX_GROUPS
    caption = (
        f"{task}: AURAC in percent with 95 % intervals on each group of documents. The intervals "
        "are not adjusted for the number of groups: with many, some stand out by chance."
        f"{f' {left} more groups are in groups.csv.' if left > 0 else ''}"
    )
    titles = ("documents", "base", *(curve.label for curve in curves))
    return table(name, caption, rows, "group", numeric=titles)


def draw_groups(ax: Axes, groups: Sequence[Group], *, style: Styles | None = None) -> Axes:
    """The area on each group of documents as a dot with its interval, one row for each group."""
    curves = list({group.curve.id: group.curve for group in groups}.values())
    style = style or styles(curves)
    names = list(dict.fromkeys(group.name for group in groups))
    for at, curve in enumerate(curves):
        look = style[key(curve)]
        shown = [group for group in groups if group.curve.id == curve.id]
        shift = 0.6 * ((at + 0.5) / len(curves) - 0.5)
        places = [names.index(group.name) + shift for group in shown]
        ends = np.array([(group.log2.low, group.log2.high) for group in shown], dtype=float)
        ax.hlines(places, *100 * ends.T, color=look.colour, linewidth=1.0, alpha=0.6)
        ax.plot(
            [100 * group.log2.value for group in shown],
            places,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            label=one_line(curve.label, LABEL_CHARS),
        )
    ax.set_yticks(range(len(names)), [one_line(name, LABEL_CHARS) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AURAC, log2 axis (%)")
    if len(curves) > 1:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            borderaxespad=0.2,
            handletextpad=0.3,
            fontsize=LABEL_SIZE,
        )
    return ax
