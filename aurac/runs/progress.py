"""What a person sees while cells are computed: curves that fill in, or a line for each tenth."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aurac.terminal.console import drawn, stderr_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from aurac.runs.curve_table import CurveTable
    from aurac.runs.interrupts import Interrupts
    from aurac.runs.plan import PlannedCell
    from aurac.runs.store import CellStore

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_FAILED = "failed"


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
        """A cell has ended: "done", "failed", or the same with "by another process"."""


class SweepProgress(NoProgress):
    """A table of curves with the time left; on a pipe, a line for each tenth of the requests.

    `cells` will be computed, `planned` are all of the run. What `interrupts` says while the table
    is drawn stands below that.
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
        self._table: CurveTable | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        stored = len(self._planned) - len(self._cells)
        kept = f", {stored} already there" if stored else ""
        self._line(f"{len(self._cells)} of {len(self._planned)} cells to compute{kept}")
        if self._console.is_terminal and self._cells:
            self._draw()
        return self

    def _draw(self) -> None:
        from aurac.runs.curve_table import CurveTable

        table = CurveTable(self._console, self._planned, self._requests)
        left = {cell.identity.key for cell in self._cells}
        for cell in self._planned:
            if cell.identity.key not in left and table.shows(cell):
                table.fill_in(cell, self._accuracy(cell))
        self._drawn.enter_context(self._interrupts.saying(table.say))
        self._drawn.enter_context(drawn(table))
        self._table = table

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._table is not None:
            self._table.live.transient = kind is None  # the results follow
        self._drawn.close()
        if self._cells:
            seconds = duration(time.perf_counter() - self._started)
            self._line(f"{self._ended} of {len(self._cells)} cells finished in {seconds}")

    def documents(self, count: int) -> None:
        """Advance the bar, or say that another tenth is done."""
        self._answered += count
        if self._table is not None:
            self._table.count(count)
            return
        tenths = 10 * self._answered // max(1, self._requests)
        if self._tenths < tenths < 10:
            self._tenths = tenths
            failed = f", {self._failed} failed" if self._failed else ""
            cells = f"{self._ended} of {len(self._cells)} cells{failed}"
            seconds, pace = time.perf_counter() - self._started, ""
            if seconds > 0:
                rate = self._answered / seconds
                left = duration((self._requests - self._answered) / rate)
                pace = f", {rate:.3g} requests/s, {left} left"
            self._line(f"{10 * tenths} %: {cells}, {duration(seconds)}{pace}")

    def cell(self, cell: PlannedCell) -> None:
        """Name the cell that begins."""
        if self._table is not None:
            self._table.begin(cell)

    def settled(self, cell: PlannedCell, outcome: str) -> None:
        """Fill in what has ended."""
        failed = outcome.startswith("failed")
        self._ended, self._failed = self._ended + 1, self._failed + failed
        if self._table is not None and self._table.shows(cell):
            self._table.fill_in(cell, _FAILED if failed else self._accuracy(cell))

    def _accuracy(self, cell: PlannedCell) -> str:
        """In percent, of the metric that is integrated."""
        stored = self._store.read(cell.identity.key, cell.documents)
        column = stored.scores(cell.task.metric) if stored and not stored.missing else None
        return f"{100 * sum(column) / len(column):.1f}" if column else _FAILED

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


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
