"""What a person sees while cells are computed: curves that fill in, or a line for each tenth."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from aurac.report.escape import one_line
from aurac.report.tables import percent
from aurac.terminal.console import drawn, stderr_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from typing_extensions import Self

    from aurac.runs.interrupts import Interrupts
    from aurac.runs.plan import PlannedCell
    from aurac.runs.store import CellStore

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_WAITING, _RUNNING, _FAILED = "·", "…", "failed"
_RANK_WIDTH, _NAME_WIDTH, _OTHER_LINES = 8, 36, 8  # of the table of curves
_BAR_WIDTH = 68  # without the description


class NoProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Nothing to close."""

    def documents(self, count: int) -> None:
        """Requests answered since the last call."""

    def cell(self, cell: PlannedCell) -> None:
        """A cell begins."""

    def settled(self, cell: PlannedCell, outcome: str) -> None:
        """A cell has ended.

        Args:
            cell: The cell.
            outcome: "done", "failed", or the same with "by another process".
        """


class SweepProgress(NoProgress):
    """A table of curves with the time left; on a pipe, a line for each tenth of the requests.

    Args:
        cells: The cells that will be computed.
        planned: All cells of the run, those already stored included.
        store: Holds the outcomes of cells that are done.
        interrupts: What it says while the table is drawn stands below that.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        planned: Sequence[PlannedCell],
        store: CellStore,
        interrupts: Interrupts,
    ) -> None:
        self._cells, self._planned = cells, planned
        self._store, self._interrupts = store, interrupts
        self._requests = sum(cell.task.n_requests for cell in cells)
        self._ended = self._failed = self._answered = self._tenths = 0
        self._started = time.perf_counter()
        self._console = stderr_console()
        self._table: _CurveTable | None = None
        self._live: Any = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        stored = len(self._planned) - len(self._cells)
        kept = f", {stored} already there" if stored else ""
        self._line(f"{len(self._cells)} of {len(self._planned)} cells to compute{kept}")
        if self._console.is_terminal and self._cells:
            self._draw()
        return self

    def _draw(self) -> None:
        from rich.live import Live

        table = _CurveTable(self._console, self._planned, self._requests)
        left = {cell.identity.key for cell in self._cells}
        for cell in self._planned:
            if cell.identity.key not in left and table.shows(cell):
                table.set(cell, self._accuracy(cell))
        self._live = Live(
            get_renderable=lambda: table,
            console=self._console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn.enter_context(self._interrupts.saying(table.say))
        self._drawn.enter_context(drawn(self._live))
        self._table = table

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is not None:
            self._live.transient = kind is None  # the results follow
        self._drawn.close()
        if self._cells:
            seconds = duration(time.perf_counter() - self._started)
            self._line(f"{self._ended} of {len(self._cells)} cells finished in {seconds}")

    def documents(self, count: int) -> None:
        """Advance the bar, or say that another tenth is done."""
        self._answered += count
        if self._table is not None:
            self._table.advance(count)
            return
        tenths = 10 * self._answered // max(1, self._requests)
        if self._tenths < tenths < 10:
            self._tenths = tenths
            failed = f", {self._failed} failed" if self._failed else ""
            cells = f"{self._ended} of {len(self._cells)} cells{failed}"
            seconds = time.perf_counter() - self._started
            self._line(f"{10 * tenths} %: {cells}, {duration(seconds)}{self._pace(seconds)}")

    def cell(self, cell: PlannedCell) -> None:
        """Name the cell that begins."""
        if self._table is not None:
            self._table.begin(cell)

    def settled(self, cell: PlannedCell, outcome: str) -> None:
        """Fill in what has ended."""
        failed = outcome.startswith("failed")
        self._ended, self._failed = self._ended + 1, self._failed + failed
        if self._table is not None and self._table.shows(cell):
            self._table.set(cell, _FAILED if failed else self._accuracy(cell))

    def _accuracy(self, cell: PlannedCell) -> str:
        """In percent, of the metric that is integrated."""
        stored = self._store.read(cell.identity.key, cell.documents)
        column = stored.metrics.get(cell.task.metric) if stored and not stored.missing else None
        return percent(sum(column) / len(column)) if column else _FAILED

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _pace(self, seconds: float) -> str:
        """Requests per second so far, and the time left at that rate."""
        if self._answered <= 0 or seconds <= 0:
            return ""
        rate = self._answered / seconds
        left = (self._requests - self._answered) / rate
        return f", {rate:.3g} requests/s, {duration(left)} left"


class _CurveTable:
    """Accuracy in percent, a row for each curve and a column for each rank; below it a bar.

    Where there are too many rows those of the task in progress are shown, where there are too many
    ranks those that are computed first.
    """

    def __init__(self, console: Console, planned: Sequence[PlannedCell], requests: int) -> None:
        self._rows = list(dict.fromkeys(_row(cell) for cell in planned if cell.variant))
        self._rows = self._rows or list(dict.fromkeys(_row(cell) for cell in planned))
        most = max(2, (console.width - _NAME_WIDTH) // _RANK_WIDTH)
        ranks = dict.fromkeys(cell.rank for cell in planned)
        self._ranks = sorted(list(ranks)[:most])
        self._values = {(*_row(cell), cell.rank): _WAITING for cell in planned}
        self._console = console
        self._task = self._rows[0][0]
        self._note = ""
        self._bar = _bar(console)
        self._bar_task = self._bar.add_task("loading the base model", total=requests)

    def shows(self, cell: PlannedCell) -> bool:
        """Whether it has a column."""
        return cell.rank in self._ranks

    def set(self, cell: PlannedCell, value: str) -> None:
        """Fill in a cell."""
        self._values[(*_row(cell), cell.rank)] = value

    def begin(self, cell: PlannedCell) -> None:
        """Mark the cell in progress, and name it at the bar."""
        self._task = cell.task.name
        self.set(cell, _RUNNING)
        self._bar.update(self._bar_task, description=one_line(cell.label))

    def advance(self, count: int) -> None:
        """Count requests."""
        self._bar.advance(self._bar_task, count)

    def say(self, text: str) -> None:
        """A line below the bar, drawn within a fraction of a second."""
        self._note = text

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        most = max(1, self._console.height - _OTHER_LINES)
        rows = sorted(self._rows, key=lambda row: row[0] != self._task)[:most]
        rows = [row for row in self._rows if row in rows]
        several = len({task for task, _ in self._rows}) > 1
        table = Table(box=None, pad_edge=False)
        table.add_column("accuracy, %", overflow="ellipsis", no_wrap=True)
        for rank in self._ranks:
            table.add_column(f"r={rank}" if rank else "base", justify="right", no_wrap=True)
        for task, curve in rows:
            name = " · ".join([task] * several + [curve or "base"])
            base = self._values.get((task, None, 0), "")
            values = [self._values.get((task, curve, rank), "") for rank in self._ranks if rank]
            values = [base, *values] if 0 in self._ranks else values
            table.add_row(Text(one_line(name)), *map(Text, values))
        hidden = len(self._rows) - len(rows)
        parts = [table, *([Text(f"and {hidden} more curves")] if hidden else []), self._bar]
        return Group(*parts, *([Text(self._note)] if self._note else []))


def _row(cell: PlannedCell) -> tuple[str, str | None]:
    return cell.task.name, cell.variant.label if cell.variant else None


def duration(seconds: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min 5 s`, `8 s`."""
    parts, rest = [], max(0, round(seconds))
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    if len(parts) < 2 and (rest or not parts):
        parts.append(f"{rest} s")
    return " ".join(parts[:2])


def _bar(console: Console) -> Any:
    from rich import progress
    from rich.table import Column
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Requests per second, of late."""

        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:.3g} requests/s" if task.speed else "", no_wrap=True)

    width = max(12, console.width - _BAR_WIDTH)
    name = Column(max_width=width, no_wrap=True, overflow="ellipsis")
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=name),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        Rate(),
        console=console,
    )
