"""The content of a report, without a format: HTML and Markdown are two renderings of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from aurac.show.documents import Samples
    from aurac.show.table import Table


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of plain sentences."""

    items: tuple[str, ...]


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


Block = Union[Text, Bullets, "Table", Picture, Examples, Code, "Fold"]


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
