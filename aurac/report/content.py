"""The content of a report, without a format: HTML and Markdown are two renderings of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from aurac.report.documents import Example


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; `strong` marks the answer."""

    text: str
    strong: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Bullets:
    """A list of plain sentences."""

    items: tuple[str, ...]
    kind: str = "bullets"


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are set flush right and sort by value."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, what it sorts by, and whether it is the best of its kind."""

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption that says what it shows."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: str = "table"

    @property
    def sortable(self) -> bool:
        """Whether there is a number to sort by and more than one row."""
        return len(self.rows) > 1 and any(column.numeric for column in self.columns)


@dataclass(frozen=True)
class Picture:
    """A figure: its file beside the report, the SVG to inline, a caption and an alt text."""

    name: str
    title: str
    caption: str
    alt: str
    file: str
    svg: str
    series: tuple[tuple[str, str], ...] = ()
    kind: str = "picture"


@dataclass(frozen=True)
class Examples:
    """Documents with their answers at several ranks."""

    examples: tuple[Example, ...]
    kind: str = "examples"


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Fold:
    """Blocks that most readers skip, behind a summary line."""

    summary: str
    blocks: tuple[Block, ...]
    kind: str = "fold"


Block = Union[Text, Bullets, Table, Picture, Examples, Code, "Fold"]


@dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole report, in reading order."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    version: str
