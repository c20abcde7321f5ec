"""The lines of the table, and the note that they are written into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

HEAD = ("claim", "setting", "n", "found", "wanted", "note")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """One line of the table: a share of repetitions, what it should be, and how it was counted.

    With 0 repetitions the number was calculated, and `n` of 0 stands for any number of documents.
    """

    claim: str
    setting: str
    n: int
    found: float
    repetitions: int
    target: str
    note: str = ""

    def cells(self) -> list[str]:
        """The row as text, with the simulation's own standard error."""
        share = f"{self.found:.3f}"
        if self.repetitions:
            share += f" ± {np.sqrt(self.found * (1 - self.found) / self.repetitions):.3f}"
        return [self.claim, self.setting, str(self.n or "any"), share, self.target, self.note]


def share(repetitions: int, once: Callable[[], bool]) -> float:
    """Share of repetitions in which `once` is true."""
    return sum(once() for _ in range(repetitions)) / repetitions


def line_of(row: Row) -> str:
    """A row as a line of a Markdown table."""
    return f"| {' | '.join(row.cells())} |"


def heading() -> list[str]:
    """The table's first two lines."""
    return [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]


def write(path: Path, lines: Sequence[str], seed: int, repetitions: int) -> None:
    """Put the table between the two marks of the note, with the seed it was made from."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = f"Seed {seed}, {repetitions} repetitions; ± is the simulation's own standard error."
    table = "\n".join([BEGIN, "", made, "", *lines, "", END])
    path.write_text(before + table + after, encoding="utf-8")
