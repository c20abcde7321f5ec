"""What a person sees while cells are computed: one bar with the time left, or plain lines."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from aurac.report.escape import one_line
from aurac.terminal.console import drawn, stderr_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from aurac.runs.plan import PlannedCell

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


class NoProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
    """A bar over the requests of all cells; on a pipe, one plain line for each cell that ends.

    Args:
        cells: The cells that will be computed.
        total_cells: All cells of the run, those already stored included.
    """

    def __init__(self, cells: Sequence[PlannedCell], total_cells: int) -> None:
        self._cells, self._total = len(cells), total_cells
        self._requests = sum(cell.task.n_requests for cell in cells)
        self._ended = self._answered = 0
        self._started = time.perf_counter()
        self._console = stderr_console()
        self._bar: Any = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        stored = self._total - self._cells
        kept = f", {stored} already there" if stored else ""
        self._line(f"{self._cells} of {self._total} cells to compute{kept}")
        if self._console.is_terminal and self._cells:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task("loading the base model", total=self._requests)
            self._drawn.enter_context(drawn(self._bar))
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()
        if self._cells:
            seconds = duration(time.perf_counter() - self._started)
            self._line(f"{self._ended} of {self._cells} cells finished in {seconds}")

    def documents(self, count: int) -> None:
        """Advance the bar."""
        self._answered += count
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def cell(self, cell: PlannedCell) -> None:
        """Name the cell that begins."""
        if self._bar is not None:
            self._bar.update(self._task, description=one_line(cell.label))

    def settled(self, cell: PlannedCell, outcome: str) -> None:
        """Say what has ended."""
        self._ended += 1
        if self._bar is None:
            seconds = time.perf_counter() - self._started
            place = f"[{self._ended}/{self._cells}] {seconds:6.1f} s{self._pace(seconds)}"
            self._line(f"{place}  {outcome}: {one_line(cell.label)}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _pace(self, seconds: float) -> str:
        """Requests per second so far, and the time left at that rate."""
        if self._answered <= 0 or seconds <= 0:
            return ""
        rate = self._answered / seconds
        left = (self._requests - self._answered) / rate
        return f", {rate:.3g} requests/s, {duration(left)} left"


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


def _rate(task: Any) -> str:
    return f"{task.speed:.3g} requests/s" if task.speed else ""


def _bar(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Requests per second, of late."""

        def render(self, task: Any) -> Text:
            return Text(_rate(task))

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        Rate(),
        console=console,
        redirect_stdout=False,
        redirect_stderr=False,
    )
