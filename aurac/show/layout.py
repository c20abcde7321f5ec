"""A table of texts as lines of a limited width, with every cell and no broken word.

Of a table that is too wide, columns that are alike in all rows are named below it. Then its cells
are folded between words, or it stands in blocks of columns, one below the other, each with the
columns that tell the rows apart: whichever takes fewer lines. Where not even that fits, each row is
a list of `column: value`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len  # characters of some scripts take two columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GAP = 2  # spaces between columns
_NUMBER = re.compile(r"(?=.{,24}$)([−+<>=±-]? ?[.\d]([^A-Za-z_]|(?<=[ A-Za-z])[A-Za-z])*|[–?]?)$")
"""Cells that are never folded and stand flush right: a number, its unit and its interval."""

_BREAK = re.compile(r"(?= (?![%·−]))|(?<=[^ ]{20}/)(?=.)")


@dataclass(frozen=True)
class Series:
    """A column of a table: its title, its cells, and the rows in which it is bold."""

    title: str
    cells: tuple[str, ...]
    bold: frozenset[int] = frozenset()

    def folded(self, width: int) -> Series:
        """The same with lines of at most `width` characters."""
        cells = tuple(_fold(cell, width) for cell in self.cells)
        return replace(self, title=_fold(self.title, width), cells=cells)

    @property
    def width(self) -> int:
        """Characters in the longest line."""
        return max(
            cell_len(line) for text in (self.title, *self.cells) for line in text.split("\n")
        )

    @property
    def least(self) -> int:
        """The least width to which it can be folded."""
        pieces = (piece for text in (self.title, *self.cells) for piece in _pieces(text))
        return max(cell_len(piece.lstrip(" ")) for piece in pieces)

    @property
    def right(self) -> bool:
        """Whether it holds numbers."""
        return any(self.cells) and all(map(_NUMBER.match, self.cells))


def _pieces(text: str) -> list[str]:
    """What stays on a line: a number, a word with the space before it, a part of a long path."""
    return [text] if _NUMBER.match(text) else _BREAK.split(text)


@lru_cache(maxsize=1 << 14)
def _fold(text: str, width: int) -> str:
    lines = [""]
    for piece in _pieces(text):
        if cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip(" "))
    return "\n".join(line for line in lines if line)


def lay_out(columns: list[Series], width: int | None) -> str:
    """The table as text, within `width` characters where that is given.

    Words that are longer than a line are broken, nothing else is.
    """
    if width is None or _total(columns) <= width:
        return _draw(columns)
    differ = [column for column in columns if not _alike(column)] or columns
    same = [(c.title, c.cells[0]) for c in columns if c not in differ and c.cells[0]]
    alike = [f"{title} {'' if cell[0] in '<=>' else '= '}{cell}" for title, cell in same]
    lines = [_in_one(differ, width), _in_blocks(differ, width)]
    shortest = min(filter(None, lines), key=lambda text: text.count("\n"), default=None)
    below = f"in all rows: {'; '.join(alike)}" if alike else ""
    last = textwrap.wrap(below, width, break_on_hyphens=False)
    return "\n".join([shortest or _as_list(differ, width), *last])


def _alike(column: Series) -> bool:
    return len(column.cells) > 1 and len({*column.cells}) == 1 and not column.bold


def _total(columns: list[Series]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _height(columns: list[Series]) -> int:
    rows = zip(*((column.title, *column.cells) for column in columns), strict=True)
    return sum(1 + max(cell.count("\n") for cell in row) for row in rows)


def _folded(columns: list[Series], width: int) -> list[Series] | None:
    """Folded until they fit, each time where it costs the fewest lines; None where they cannot."""
    shown = list(columns)
    while _total(shown) > width:
        ways = []
        for at, column in enumerate(columns):
            if shown[at].width > column.least:
                narrow = column.folded(shown[at].width - 1)
                way = [*shown[:at], narrow, *shown[at + 1 :]]
                ways.append((_height(way), -shown[at].width, at, way))
        if not ways:
            return None
        shown = min(ways, key=lambda way: way[:3])[-1]
    return shown


def _in_one(columns: list[Series], width: int) -> str | None:
    shown = _folded(columns, width)
    return _draw(shown) if shown else None


def _in_blocks(columns: list[Series], width: int) -> str | None:
    """Blocks of columns; each begins with the first columns, which tell the rows apart."""
    every = range(1, len(columns))
    count = next((n for n in every if len({*_rows(columns[:n])}) == len(columns[0].cells)), 1)
    keys, rest = columns[:count], columns[count:]
    blocks = []
    while rest:
        narrow = [column.folded(column.least) if column.right else column for column in rest]
        fits = (n for n in range(len(rest), 1, -1) if _total([*keys, *narrow[:n]]) <= width)
        count = next(fits, 1)
        shown = _folded([*keys, *rest[:count]], width)
        if shown is None:
            return None
        blocks.append(_draw(shown))
        rest = rest[count:]
    return "\n\n".join(blocks)


def _rows(columns: list[Series]) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _draw(columns: list[Series]) -> str:
    """Titles, a rule and the rows."""
    sides = [(column.width, column.right) for column in columns]

    def lines(cells: Iterable[str], row: int | None = None) -> Iterator[str]:
        for parts in zip_longest(*(cell.split("\n") for cell in cells), fillvalue=""):
            texts = []
            for part, (width, right) in zip(parts, sides, strict=True):
                space = " " * (width - cell_len(part))
                texts.append(space + part if right else part + space)
            for at, column in enumerate(columns):
                if row in column.bold:
                    texts[at] = f"\x1b[1m{texts[at]}\x1b[0m"
            yield (" " * _GAP).join(texts).rstrip()

    drawn = [*lines(column.title for column in columns)]
    drawn.append((" " * _GAP).join("-" * width for width, _ in sides))
    for row, cells in enumerate(_rows(columns)):
        drawn += lines(cells, row)
    return "\n".join(drawn)


def _as_list(columns: list[Series], width: int) -> str:
    """For each row a line of `column: value` for each column, the first one to the left."""
    lines: list[str] = []
    for row in _rows(columns):
        for at, (column, cell) in enumerate(zip(columns, row, strict=True)):
            lines += textwrap.wrap(
                f"{column.title}: {cell}",
                width,
                initial_indent="  " * bool(at),
                subsequent_indent="    " if at else "  ",
                break_on_hyphens=False,
            )
    return "\n".join(lines)
