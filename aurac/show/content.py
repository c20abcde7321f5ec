"""The content of a report, without a format: HTML and Markdown are two renderings of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from aurac.show.documents import Samples


NONE = "–"


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of plain sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are set flush right and sort by value."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, what it sorts by, and whether it is among the best.

    `bar` are the low end, the value and the high end of an interval, as shares of the column's
    range.
    """

    text: str
    value: float | None = None
    best: bool = False
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption that says what it shows."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def sortable(self) -> bool:
        """Whether there is a number to sort by and more than one row."""
        return len(self.rows) > 1 and any(column.numeric for column in self.columns)


@dataclass(frozen=True)
class Picture:
    """A figure: its file beside the report, SVG to inline (wide, narrow), caption, alt text."""

    name: str
    caption: str
    alt: str
    file: str
    svgs: tuple[str, ...] = ()
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Documents with their answers at several ranks; a page may have all to look through."""

    intro: str
    samples: Samples
    browse: bool


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that most readers skip, behind a summary line."""

    summary: str
    blocks: tuple[Block, ...]


Block = Union[Text, Bullets, Table, Picture, Examples, Code, "Fold"]


@dataclass(frozen=True)
class Tile:
    """A number of the first screen, with what it is and what to know about it."""

    title: str
    value: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole report, in reading order."""

    title: str  # what was compared
    lead: str  # on what
    verdict: tuple[str, ...]  # the answer, a sentence for each task
    tiles: tuple[Tile, ...]  # its numbers, for a single task
    first: tuple[Block, ...]  # beside them the chart, or for several tasks a table and an overview
    sections: tuple[Section, ...]  # the rest
    version: str  # of aurac
