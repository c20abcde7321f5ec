"""What the ranks cost to serve: accuracy against the time of a token, where that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.curves.display import count, size
from aurac.records.serving import NOISE, against
from aurac.show import plots
from aurac.show.table import NONE, Cell, Table, rank_cell, share, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.records.serving import AdapterCost, RankCost, ServingRecord
    from aurac.show.content import Block
    from aurac.show.model import CurveRow, Run
    from aurac.show.pictures import Pictures


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


def _table(name: str, task: str, record: ServingRecord, measured: Sequence[Served]) -> Table:
    merge = all(served.cost.mergeable for served in measured)
    rows = [_row(record, record.merged, plots.MERGED if merge else "base", "")]
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
