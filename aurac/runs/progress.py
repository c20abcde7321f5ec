"""A bar with the time left, or lines where nobody watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import progress as rich_progress
from rich.console import Console
from typing_extensions import Self

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.plan import Cell


class Progress:
    """Nothing is shown; a context."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, cell: Cell) -> None:
        """A cell is being computed."""

    def advance(self, cell: Cell, examples: float) -> None:
        """So many of its examples are there."""

    def settled(self, cell: Cell, how: str) -> None:
        """A cell is done or failed."""


class Bar(Progress):
    """On standard error: a bar over all examples, and on no terminal a line for each cell."""

    def __init__(self, cells: Sequence[Cell], left: Sequence[int]) -> None:
        self._console = Console(stderr=True)
        self._settled, self._cells = sum(count == 0 for count in left), len(cells)
        self._weight = {cell.key: weight(cell) for cell in cells}
        total = sum(self._weight[c.key] * n for c, n in zip(cells, left, strict=True))
        columns = (
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[cells]} cells"),
            rich_progress.TimeRemainingColumn(),
        )
        self._bar = rich_progress.Progress(
            *columns, console=self._console, disable=not self._console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("", total=total, cells=self._counts)

    @property
    def _counts(self) -> str:
        return f"{self._settled}/{self._cells}"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, cell: Cell) -> None:
        """See `Progress`."""
        self._bar.update(self._task, description=one_line(cell.label))

    def advance(self, cell: Cell, examples: float) -> None:
        """See `Progress`."""
        self._bar.advance(self._task, self._weight[cell.key] * examples)

    def settled(self, cell: Cell, how: str) -> None:
        """See `Progress`."""
        self._settled += 1
        self._bar.update(self._task, cells=self._counts)
        if not self._console.is_terminal or how != "done":
            line = f"{self._counts} cells: {one_line(cell.label)} {one_line(how)}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def weight(cell: Cell) -> float:
    """About how long one of its examples takes beside those of other tasks: characters read."""
    first = cell.task.instances([0])
    return 1.0 + sum(len(str(instance.args[0])) for instance in first)
