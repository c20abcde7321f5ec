"""A bar with the time left, lines where nobody watches, or nothing."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from typing_extensions import Self

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.runs.plan import PlannedCell

_DAY = 86_400.0


class Progress:
    """On standard error: a bar over all examples, and on no terminal a line for each cell.

    What changes its length stands last, and is cut where the terminal ends: the bar keeps its place
    and its width.

    Args:
        shown: Otherwise nothing is written.
        now: The time in seconds.
    """

    def __init__(self, *, shown: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (
            rich_progress.BarColumn(bar_width=20, finished_style="bar.complete"),
            rich_progress.TextColumn("{task.fields[told]}", markup=False),
            rich_progress.TextColumn("{task.description}", markup=False, table_column=rest),
        )
        self._bar = rich_progress.Progress(
            *columns,
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            expand=True,
            get_time=now,
            speed_estimate_period=_DAY,  # cells differ: the speed is that of the whole run
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, told="")
        self._there: dict[str, float] = {}
        self._settled = self._cells = self._tasks = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, what: str) -> None:
        """Something of unknown length begins, such as "loading the weights"."""
        self._bar.update(self._task, description=f"{what} …", told="")

    def say(self, line: str) -> None:
        """Something is known that is no error."""
        self._console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    def plan(self, cells: Sequence[PlannedCell], left: Sequence[int]) -> None:
        """These are the cells, and how many of their examples are missing."""
        self._settled = sum(count == 0 for count in left)
        self._cells, self._tasks = len(cells), len({cell.task.name for cell in cells})
        self._there = {c.key: len(c.task) - n for c, n in zip(cells, left, strict=True)}
        total, there = sum(len(cell.task) for cell in cells), sum(self._there.values())
        self._bar.reset(self._task, total=total, completed=int(there))

    def at(self, cell: PlannedCell, there: float) -> None:
        """So many examples of a cell that is being computed are there."""
        more = there - self._there.get(cell.key, 0.0)
        self._there[cell.key] = there
        self._bar.advance(self._task, more)
        task = f" of {one_line(cell.task.name)}" if self._tasks > 1 else ""
        self._tell(f"{one_line(cell.who)}: {there:.0f}/{len(cell.task)}{task}")

    def advance(self, cell: PlannedCell, examples: float) -> None:
        """So many more of its examples are there."""
        self.at(cell, self._there.get(cell.key, 0.0) + examples)

    def settled(self, cell: PlannedCell, how: str) -> None:
        """A cell is done or failed."""
        self._settled += 1
        self._tell()
        if not self._console.is_terminal or how != "done":
            self.say(f"{self._counts()}: {cell.label}{'' if how == 'done' else f' {how}'}")

    def _tell(self, description: str | None = None) -> None:
        told = self._counts().ljust(len(f"{self._cells}/{self._cells} done, about 100 s left"))
        self._bar.update(self._task, told=told, description=description)

    def _counts(self) -> str:
        """Such as "3/16 done, about 40 s left"; without the time where it is not known."""
        done = f"{self._settled}/{self._cells} done"
        left = self._bar.tasks[0].time_remaining
        return (
            done if self._settled == self._cells or left is None else f"{done}, {about(left)} left"
        )


Bar = functools.partial(Progress, shown=True)


def about(seconds: float) -> str:
    """Such as "about 40 s", in steps of 5 s."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {5 * math.ceil(seconds / 5)} s"
