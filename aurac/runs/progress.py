"""What a person sees while cells are computed: curves that fill in, or a line for each tenth."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from aurac.terminal import drawn, stderr_console, step_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

    from aurac.records.store import CellStore
    from aurac.runs.curve_table import CurveTable
    from aurac.runs.interrupts import Interrupts
    from aurac.runs.plan import PlannedCell

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_FAILED = "failed"


class Pace:
    """Counts towards a total: when another tenth of it is done, and how long the rest takes."""

    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._done = self._tenths = 0
        self._started = time.perf_counter()

    def tenth(self, count: int) -> int:
        """Count on. The percent that are done if another tenth is, before the last; else 0."""
        self._done += count
        tenths = 10 * self._done // self._total
        if not self._tenths < tenths < 10:
            return 0
        self._tenths = tenths
        return 10 * tenths

    def elapsed(self) -> str:
        """The time since the start."""
        return duration(time.perf_counter() - self._started)

    def left(self, unit: str) -> str:
        """Units per second so far, and the time left at that rate; nothing where not known."""
        seconds = time.perf_counter() - self._started
        if self._done <= 0 or seconds <= 0:
            return ""
        rate = self._done / seconds
        return f", {rate:.3g} {unit}/s, {duration((self._total - self._done) / rate)} left"


@contextmanager
def counting(title: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps with the time left; on a pipe, a line for each tenth.

    Yields:
        What to call after each step.
    """
    if stderr_console().is_terminal:
        bar = step_bar()
        task = bar.add_task(title, total=total)
        with drawn(bar):
            yield lambda: bar.advance(task)
        return
    pace = Pace(total)

    def step() -> None:
        if percent := pace.tenth(1):
            say(f"{title}: {percent} %, {pace.elapsed()}{pace.left(unit)}")

    yield step


def say(text: str) -> None:
    """Print a line on standard error, as it is."""
    stderr_console().print(text, markup=False, highlight=False, soft_wrap=True)


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
        self._pace = Pace(self._requests)
        self._ended = self._failed = 0
        self._console = stderr_console()
        self._table: CurveTable | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        stored = len(self._planned) - len(self._cells)
        kept = f", {stored} already there" if stored else ""
        say(f"{len(self._cells)} of {len(self._planned)} cells to compute{kept}")
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
            cells = f"{self._ended} of {len(self._cells)} cells"
            say(f"{cells} finished in {self._pace.elapsed()}")

    def documents(self, count: int) -> None:
        """Advance the bar, or say that another tenth is done."""
        if self._table is not None:
            self._table.count(count)
        elif percent := self._pace.tenth(count):
            failed = f", {self._failed} failed" if self._failed else ""
            cells = f"{self._ended} of {len(self._cells)} cells{failed}"
            say(f"{percent} %: {cells}, {self._pace.elapsed()}{self._pace.left('requests')}")

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
