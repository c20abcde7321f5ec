"""What a person sees while cells are computed: curves that fill in, or a line for each tenth."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich import progress
from rich.table import Table
from rich.text import Text

from aurac.curves.display import percent
from aurac.runs.log import duration
from aurac.terminal import drawn, one_line, stderr_console, step_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console, RenderableType
    from typing_extensions import Self

    from aurac.records.store import CellStore
    from aurac.runs.interrupts import Interrupts
    from aurac.runs.plan import PlannedCell

_WAITING, _RUNNING, _FAILED = "·", "…", "failed"
_RANK_WIDTH, _NAME_WIDTH, _OTHER_LINES = 7, 36, 9


def say(text: str) -> None:
    """Print a line on standard error, as it is."""
    stderr_console().print(text, markup=False, highlight=False, soft_wrap=True)


class Tenths:
    """Counts towards a total: when another tenth of it is done, and how long the rest takes."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit = max(1, total), unit
        self._done = self._tenths = 0
        self._started = time.perf_counter()

    def another(self, count: int) -> int:
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

    def times(self) -> str:
        """The time since the start, units per second, and the time left at that rate."""
        seconds = time.perf_counter() - self._started
        if self._done <= 0 or seconds <= 0:
            return duration(seconds)
        left = (self._total - self._done) * seconds / self._done
        rate = f"{self._done / seconds:.3g} {self._unit}/s"
        return f"{duration(seconds)}, {rate}, {duration(left)} left"


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
    tenths = Tenths(total, unit)

    def step() -> None:
        if percent := tenths.another(1):
            say(f"{title}: {percent} %, {tenths.times()}")

    yield step


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

    `cells` will be computed, `planned` are all. What `interrupts` says stands below the table.
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
        self._tenths = Tenths(self._requests, "requests")
        self._ended = self._failed = 0
        self._table: CurveTable | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        stored = len(self._planned) - len(self._cells)
        kept = f", {stored} already there" if stored else ""
        say(f"{len(self._cells)} of {len(self._planned)} cells to compute{kept}")
        if stderr_console().is_terminal and self._cells:
            table = self._table = CurveTable(stderr_console(), self._planned, self._requests)
            left = {cell.identity.key for cell in self._cells}
            for cell in self._planned:
                if cell.identity.key not in left:
                    table.fill_in(cell, self._accuracy(cell))
            self._drawn.enter_context(self._interrupts.saying(table.say))
            self._drawn.enter_context(drawn(table))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._table is not None:
            self._table.live.transient = kind is None  # the results follow
        self._drawn.close()
        if self._cells:
            cells = f"{self._ended} of {len(self._cells)} cells"
            say(f"{cells} finished in {self._tenths.elapsed()}")

    def documents(self, count: int) -> None:
        """Advance the bar, or say that another tenth is done."""
        if self._table is not None:
            self._table.count(count)
        elif percent := self._tenths.another(count):
            failed = f", {self._failed} failed" if self._failed else ""
            cells = f"{self._ended} of {len(self._cells)} cells{failed}"
            say(f"{percent} %: {cells}, {self._tenths.times()}")

    def cell(self, cell: PlannedCell) -> None:
        """Name the cell that begins."""
        if self._table is not None:
            self._table.begin(cell)

    def settled(self, cell: PlannedCell, outcome: str) -> None:
        """Fill in what has ended."""
        failed = outcome.startswith("failed")
        self._ended, self._failed = self._ended + 1, self._failed + failed
        if self._table is not None:
            self._table.fill_in(cell, _FAILED if failed else self._accuracy(cell))

    def _accuracy(self, cell: PlannedCell) -> str:
        """In percent, of the metric that is integrated."""
        stored = self._store.read(cell.identity.key, cell.documents, cell.scoring)
        column = stored.scores(cell.task.metric) if stored and not stored.missing else None
        return percent(sum(column) / len(column)) if column else _FAILED


class _Rate(progress.ProgressColumn):
    """Requests per second, of late."""

    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.speed:.3g} requests/s" if task.speed else "", no_wrap=True)


class CurveTable(progress.Progress):
    """A row for each curve and a column for each rank of the `planned` cells, above a bar.

    Of too many rows those of the task in progress are shown, of too many ranks the first computed.
    """

    def __init__(self, console: Console, planned: Sequence[PlannedCell], requests: int) -> None:
        curves = dict.fromkeys(_curve(cell) for cell in planned if cell.variant)
        self._curves = list(curves or dict.fromkeys(map(_curve, planned)))
        most = max(2, (console.width - _NAME_WIDTH) // _RANK_WIDTH)
        every = list(dict.fromkeys(cell.rank for cell in planned))
        self._ranks, self._hidden = sorted(every[:most]), len(every[most:])
        self._values = {(*_curve(cell), cell.rank): _WAITING for cell in planned}
        self._task, self._note, self._terminal = planned[0].task.name, "", console
        self._doing = "loading the base model"
        variants = [cell.variant for cell in planned if cell.variant]
        self._names = {variant.label: variant.called for variant in variants}
        super().__init__(
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
        self._bar = self.add_task("", total=requests)

    def fill_in(self, cell: PlannedCell, value: str) -> None:
        """Show what a cell came to."""
        self._values[(*_curve(cell), cell.rank)] = value

    def begin(self, cell: PlannedCell) -> None:
        """Mark the cell in progress, and name it at the bar."""
        self._task = cell.task.name
        self.fill_in(cell, _RUNNING)
        self._doing = one_line(cell.label)

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
                name = self._names[curve] if curve else "base"
                name = f"{name} on {task}" if several else name
                places = [(task, curve if rank else None, rank) for rank in self._ranks]
                values = [Text(self._values.get(place, "")) for place in places]
                table.add_row(Text(one_line(name)), *values)
        yield table
        if len(self._curves) > most:
            yield Text(f"and {len(self._curves) - most} more curves")
        if self._hidden:
            yield Text(f"and {self._hidden} more ranks: a wider terminal shows them")
        yield Text(self._doing, no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table(self.tasks)
        if self._note:
            yield Text(self._note)


def _curve(cell: PlannedCell) -> tuple[str, str | None]:
    return cell.task.name, cell.row.curve
