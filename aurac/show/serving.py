"""What the ranks cost to serve: accuracy against the time of a token, where that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aurac.curves.display import count, size
from aurac.records.serving import NOISE, against
from aurac.show import appearance, plots
from aurac.show.table import NONE, Cell, Table, rank_cell, share, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from aurac.records.serving import AdapterCost, RankCost, ServingRecord
    from aurac.show.content import Block
    from aurac.show.model import CurveRow, Run
    from aurac.show.pictures import Pictures

_MERGED = "merged, any rank"


@dataclass(frozen=True)
class Served:
    """A curve at the ranks that have an accuracy and a measured cost, ascending."""

    curve: CurveRow
    cost: AdapterCost
    points: tuple[tuple[RankCost, float], ...]

    @property
    def unclear(self) -> list[tuple[RankCost, float]]:
        """The points whose time of a token is within noise of that of the largest rank."""
        return [point for point in self.points if against(point[0], self.cost.full) == NOISE]


def serving_blocks(
    run: Run, pictures: Pictures, task: str, curves: Sequence[CurveRow]
) -> list[Block]:
    """A figure and a table for each measurement; none where there is none."""
    blocks: list[Block] = []
    for number, record in enumerate(run.serving):
        measured = [one for curve in curves if (one := _served(record, curve))]
        if measured:
            name = f"{pictures.slugs[task]}{f'-{number + 1}' if number else ''}"
            blocks += [
                pictures.latency(f"latency-{name}", task, record, measured),
                _table(f"serving-{name}", task, record, measured),
            ]
    return blocks


def _served(record: ServingRecord, curve: CurveRow) -> Served | None:
    """A curve with its costs."""
    cost = record.cost_of([row.adapter for row in curve.members or (curve,)], curve.basis)
    if cost is None:
        return None
    known = dict(zip(curve.ranks, curve.accuracy, strict=True))
    points = tuple((one, known[one.rank]) for one in cost.ranks if one.rank in known)
    return Served(curve, cost, points) if points else None


def draw_latency(
    ax: Axes,
    record: ServingRecord,
    measured: Sequence[Served],
    *,
    style: appearance.Styles,
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against the milliseconds of a generated token, unmerged.

    The lines are named at the right edge where `labels` are wanted.
    """
    ends, tints = [], []
    for at, served in enumerate(measured):
        look, label = style[appearance.key(served.curve)], appearance.legend_label(served.curve)
        times = [one.decode for one, _ in served.points]
        shares = [100 * accuracy for _, accuracy in served.points]
        (line,) = ax.plot([1000 * t.median for t in times], shares, label=label, **look.options)
        line.set_gid(f"curve-{at}")
        lows = [1000 * (t.median if t.low is None else t.low) for t in times]
        highs = [1000 * (t.median if t.high is None else t.high) for t in times]
        ax.hlines(shares, lows, highs, color=look.colour, linewidth=1, alpha=0.6)
        hollow = [(1000 * one.decode.median, 100 * y) for one, y in served.unclear]
        if hollow:
            ax.plot(
                *zip(*hollow, strict=True),
                **{**look.options, "linestyle": "none", "markerfacecolor": appearance.PAPER},
                zorder=4,
            )
        ends.append((label, shares[-1], 1000 * times[-1].median))
        tints.append(look.colour)
    plots.percent_axis(ax, [one.curve for one in measured], (), base=False)
    if any(one.cost.mergeable for one in measured):
        _draw_merged(ax, 1000 * record.merged.decode.median, labels=labels)
    ax.set_xlabel("ms for a generated token, unmerged")
    if labels:
        appearance.end_labels(ax, ends, tints)
    return ax


def _draw_merged(ax: Axes, place: float, *, labels: bool) -> None:
    """A level at the time of any merged rank, named beside it or in a legend."""
    line = ax.axvline(place, color=appearance.BASE, linewidth=1, label="_" if labels else _MERGED)
    line.set(linestyle=(0, (6, 3)), zorder=1.5)
    if labels:
        ax.annotate(
            "merged",
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -1),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=appearance.BASE,
        )


def latency_figure(
    record: ServingRecord, measured: Sequence[Served], style: appearance.Styles
) -> tuple[partial[Axes], str, str]:
    """How to draw it, how to read it, and what it shows in words."""
    caption = (
        "accuracy against the time of a generated token with the adapter unmerged, measured with "
        f"aurac cost ({one_line(record.conditions, 90)}). Each mark is a rank."
    )
    if record.merged.decode.low is not None:
        caption += " Lines through it are 95 % intervals of the median."
    if any(served.unclear for served in measured):
        caption += " Hollow: the difference to the adapter's largest rank is within noise."
    if any(served.cost.mergeable for served in measured):
        caption += " Grey dashed line: merged into the base, which takes as long at every rank."
    shown = [
        f"{served.curve.label} takes {served.points[0][0].decode.milliseconds} ms at rank "
        f"{served.points[0][0].rank} and {served.points[-1][0].decode.milliseconds} ms at rank "
        f"{served.points[-1][0].rank}"
        for served in measured
    ]
    words = f"{'; '.join(shown)}. The base takes {record.merged.decode.milliseconds} ms."
    return partial(draw_latency, record=record, measured=measured, style=style), caption, words


def _table(name: str, task: str, record: ServingRecord, measured: Sequence[Served]) -> Table:
    merge = all(served.cost.mergeable for served in measured)
    rows = [_row(record, record.merged, _MERGED if merge else "base", "")]
    for served in measured:
        shown, full = plots.marked(served.curve), served.cost.full
        rows += [
            _row(record, one, served.curve.label, against(one, full), accuracy)
            for one, accuracy in served.points
            if one.rank in shown
        ]
    caption = (
        f"{task}: what serving takes, measured with aurac cost on "
        f"{one_line(record.conditions, 90)}, {record.measured[:10]}. Times are medians in "
        f"ms over {record.repeats} rounds with 95 % intervals; a round times the base and every "
        "rank once. The last column is the difference of a token to the adapter's largest rank, "
        "paired by round; within noise: the interval of the difference holds 0."
    )
    numeric = (
        *("rank", "accuracy (%)", "size", "prompt [95 %]", "prompt tokens/s"),
        *("token [95 %]", "tokens/s"),
    )
    last = ("token − largest rank",)
    return table(name, caption, rows, "adapter", numeric=numeric, last=last)


def _row(
    record: ServingRecord, one: RankCost, label: str, gap: str, accuracy: float | None = None
) -> tuple[Cell, ...]:
    prefill, decode = record.tokens_per_second(one)
    return (
        Cell(label),
        rank_cell(one.rank) if one.rank else Cell(NONE),
        share(accuracy),
        Cell(size(one.bytes), one.bytes) if one.rank else Cell(NONE),
        Cell(one.prefill.milliseconds, one.prefill.median),
        Cell(count(prefill), prefill),
        Cell(one.decode.milliseconds, one.decode.median),
        Cell(f"{decode:.1f}" if decode < 100 else count(decode), decode),
        Cell(gap or NONE),
    )
