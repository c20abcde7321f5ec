"""Groups of a task's documents: the area and the accuracies on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aurac.show.appearance import LABEL_CHARS, LABEL_SIZE, Styles, key, styles
from aurac.show.table import Cell, Table, estimate, number, share, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from aurac.show.comparisons import Compared
    from aurac.show.model import CurveRow, Interval
    from aurac.stats.mean import Estimate

_MAX_GROUPS = 60


@dataclass(frozen=True)
class Group:
    """One curve on one group of a task's documents.

    `accuracy` is at each rank of the curve; the base's is None where its cell was not kept.
    """

    name: str
    n_docs: int
    curve: CurveRow
    log2: Estimate | Interval
    accuracy: tuple[Estimate, ...]
    baseline: float | None


def shown_groups(tasks: Sequence[str], compared: Compared) -> dict[str, list[Group]]:
    """The groups of each task in their stored order, for each of a few curves."""
    groups: dict[str, list[Group]] = {task: [] for task in tasks}
    for row in compared.closely.strata:
        curve = compared.row(row.task, row.curve)
        group = Group(row.stratum, row.n_docs, curve, row.log2, row.accuracy, row.baseline)
        groups[str(row.task)].append(group)
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
