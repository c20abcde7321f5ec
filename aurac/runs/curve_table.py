"""On a terminal: the accuracy of every curve at every rank as cells finish, and a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import progress
from rich.table import Column, Table
from rich.text import Text

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, RenderableType

    from aurac.runs.plan import PlannedCell

_WAITING, _RUNNING = "·", "…"
_RANK_WIDTH, _NAME_WIDTH, _BAR_WIDTH = 8, 36, 68  # the last without the description
_OTHER_LINES = 8


class _Rate(progress.ProgressColumn):
    """Requests per second, of late."""

    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.speed:.3g} requests/s" if task.speed else "", no_wrap=True)


class CurveTable(progress.Progress):
    """A table with a row for each curve and a column for each rank, above a bar of the requests.

    Where there are too many rows those of the task in progress are shown, where there are too many
    ranks those that are computed first. `planned` are all cells of the run.
    """

    def __init__(self, console: Console, planned: Sequence[PlannedCell], requests: int) -> None:
        curves = dict.fromkeys(_curve(cell) for cell in planned if cell.variant)
        self._curves = list(curves or dict.fromkeys(map(_curve, planned)))
        most = max(2, (console.width - _NAME_WIDTH) // _RANK_WIDTH)
        self._ranks = sorted(list(dict.fromkeys(cell.rank for cell in planned))[:most])
        self._values = {(*_curve(cell), cell.rank): _WAITING for cell in planned}
        self._task, self._note, self._terminal = planned[0].task.name, "", console
        name = Column(
            max_width=max(12, console.width - _BAR_WIDTH), no_wrap=True, overflow="ellipsis"
        )
        super().__init__(
            progress.TextColumn("{task.description}", markup=False, table_column=name),
            progress.BarColumn(bar_width=24),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            _Rate(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar = self.add_task("loading the base model", total=requests)

    def shows(self, cell: PlannedCell) -> bool:
        """Whether there is a column for its rank."""
        return cell.rank in self._ranks

    def fill_in(self, cell: PlannedCell, value: str) -> None:
        """Show what a cell came to."""
        self._values[(*_curve(cell), cell.rank)] = value

    def begin(self, cell: PlannedCell) -> None:
        """Mark the cell in progress, and name it at the bar."""
        self._task = cell.task.name
        self.fill_in(cell, _RUNNING)
        self.update(self._bar, description=one_line(cell.label))

    def count(self, requests: int) -> None:
        """Advance the bar."""
        self.advance(self._bar, requests)

    def say(self, text: str) -> None:
        """Show a line below the bar; it is not written here, but when the table is drawn next."""
        self._note = text

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table, the bar and the line below it."""
        most = max(1, self._terminal.height - _OTHER_LINES)
        shown = {*sorted(self._curves, key=lambda curve: curve[0] != self._task)[:most]}
        several = len({task for task, _ in self._curves}) > 1
        table = Table(box=None, pad_edge=False)
        table.add_column("accuracy, %", overflow="ellipsis", no_wrap=True)
        for rank in self._ranks:
            table.add_column(f"r={rank}" if rank else "base", justify="right", no_wrap=True)
        for task, curve in self._curves:
            if (task, curve) in shown:
                name = " · ".join([task] * several + [curve or "base"])
                places = [(task, curve if rank else None, rank) for rank in self._ranks]
                values = [Text(self._values.get(place, "")) for place in places]
                table.add_row(Text(one_line(name)), *values)
        yield table
        if len(self._curves) > most:
            yield Text(f"and {len(self._curves) - most} more curves")
        yield self.make_tasks_table(self.tasks)
        if self._note:
            yield Text(self._note)


def _curve(cell: PlannedCell) -> tuple[str, str | None]:
    return cell.task.name, cell.row.curve
