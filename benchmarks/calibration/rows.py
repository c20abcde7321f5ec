"""A row of the results, and the file that keeps them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True)
class Row:
    """A share of repetitions, what it should be, and how it was counted.

    With 0 repetitions the number was calculated, and `n` of 0 stands for any number of documents.
    """

    claim: str
    setting: str
    n: int
    found: float
    repetitions: int
    target: str
    note: str = ""

    def stored(self, topic: str) -> Stored:
        """The row as the file keeps it, with the simulation's own standard error."""
        error = ""
        if self.repetitions:
            error = f"{np.sqrt(self.found * (1 - self.found) / self.repetitions):.3f}"
        documents, share = str(self.n or ""), f"{self.found:.3f}"
        return Stored(
            topic, self.claim, self.setting, documents, share, error, self.target, self.note
        )


class Stored(NamedTuple):
    """A line of `results.csv`; `documents` is empty where any number is meant."""

    topic: str
    claim: str
    setting: str
    documents: str
    share: str
    standard_error: str
    wanted: str
    note: str

    @property
    def found(self) -> str:
        """The share with its standard error."""
        return f"{self.share} ± {self.standard_error}" if self.standard_error else self.share

    @property
    def where(self) -> str:
        """The setting with its number of documents."""
        return f"{self.setting}, n={self.documents}" if self.documents else self.setting


def share(repetitions: int, once: Callable[[], bool]) -> float:
    """Share of repetitions in which `once` is true."""
    return sum(once() for _ in range(repetitions)) / repetitions


def read(path: Path = RESULTS) -> list[Stored]:
    """All stored rows, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [Stored(**line) for line in csv.DictReader(lines)]


def replace(path: Path, rows: Iterable[Stored]) -> None:
    """Put new rows in the place of all rows of their topics."""
    new = list(rows)
    topics = {row.topic for row in new}
    kept = [row for row in (read(path) if path.exists() else []) if row.topic not in topics]
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(Stored._fields)
        writer.writerows(sorted([*kept, *new], key=lambda row: row.topic))
