"""Tables without a format, and how a terminal, Markdown, LaTeX, CSV and Parquet show them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aurac.analysis.sentences import show_p
from aurac.curves.display import count, interval, percent
from aurac.records.cell import encodable
from aurac.show import escape
from aurac.show.layout import Series, lay_out
from aurac.terminal import terminal_width, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Group

NONE, FEW = "–", "†"
_FEW_MEANS = f" {FEW}: few documents decide, and the interval is not by Student's t alone."
_WHOLE = {
    *("seeds", "seed", "rank", "rank_lowest", "rank_highest", "rank_lower", "rank_upper"),
    *("n_ranks", "n_docs", "parameters", "bytes", "best_rank", "gained", "lost", "family_tests"),
}
_TEXT = {
    *("task", "adapter", "basis", "rescale", "role", "metric", "method", "note", "missing"),
    *("interval", "curve", "group", "measure", "within_margin", "axis", "family"),
    *("truncation", "above_base", "chosen", "verdict", "pairing", "reference"),
}

Row = dict[str, Any]
"""A row of a file of numbers: name of the column → value."""


@dataclass(frozen=True)
class Column:
    """A column of a table. Numbers are set flush right and sort by value."""

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

    def filled(self) -> Table:
        """The same without columns that are a dash in every row."""
        cells = list(zip(*self.rows, strict=True))
        kept = [at for at, column in enumerate(cells) if {cell.text for cell in column} != {NONE}]
        columns = tuple(self.columns[at] for at in kept)
        rows = tuple(tuple(row[at] for at in kept) for row in self.rows)
        return replace(self, columns=columns, rows=rows)

    def plain(self, width: int | None = None) -> str:
        """Lines of text with all cells; see `aurac.show.layout` for a table that is too wide.

        A line has `width` characters; by default those of the terminal, or no limit on a pipe.
        """
        return lay_out(self._series(), terminal_width() if width is None else width)

    def terminal(self, width: int, title: str) -> Group:
        """For rich: title, table and caption within `width` characters, the best in bold."""
        from rich.console import Group
        from rich.text import Text

        body = Text.from_ansi(lay_out(self._series(bold=True), width))
        captions = [Text(wrapped(self.caption, width))] if self.caption else []
        return Group(Text(title, style="bold"), Text(), body, *captions)

    def _series(self, *, bold: bool = False) -> list[Series]:
        series = []
        for at, column in enumerate(self.columns):
            best = frozenset(i for i, row in enumerate(self.rows) if bold and row[at].best)
            series.append(Series(column.title, tuple(row[at].text for row in self.rows), best))
        return series

    def markdown(self) -> str:
        """A table of GitHub's Markdown, escaped, without the caption."""
        rows = [
            [("**{}**" if cell.best else "{}").format(escape.markdown(cell.text)) for cell in row]
            for row in self.rows
        ]
        head = [escape.markdown(column.title) for column in self.columns]
        return markdown_lines(head, rows, [column.numeric for column in self.columns])

    def latex(self) -> str:
        """For a paper: booktabs, over both columns of a page, intervals small, the best in bold."""
        sides = "".join("r" if column.numeric else "l" for column in self.columns)
        caption = re.sub(r"(?<=\d) \\%", r"\\,\\%", escape.latex(self.caption))
        rows = [map(_latex, row, self.columns) for row in self.rows]
        lines = [
            *(r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}"),
            *([rf"\label{{tab:{self.name}}}"] if self.name else []),
            *(rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule"),
            rf"{' & '.join(escape.latex(column.title) for column in self.columns)} \\",
            r"\midrule",
            # after `\\`, a [ or * would be taken for its argument
            *(re.sub(r"^(?=[\[*])", "{}", rf"{' & '.join(row)} \\") for row in rows),
            *(r"\bottomrule", r"\end{tabular}", r"\end{table*}"),
        ]
        return "\n".join(lines)


def _latex(cell: Cell, column: Column) -> str:
    number, _, rest = cell.text.partition(" ") if column.numeric else (cell.text, "", "")
    shown = escape.latex(number)
    shown = rf"\textbf{{{shown}}}" if cell.best else shown
    return rf"{shown} {{\small {escape.latex(rest)}}}" if rest else shown


def table(
    name: str,
    caption: str,
    rows: Iterable[Iterable[Cell]],
    *titles: str,
    numeric: Iterable[str] = (),
    last: Sequence[str] = (),
) -> Table:
    """A table with columns of text, then of numbers, and the `last` ones of text again."""
    heads = (*map(Column, titles), *(Column(t, numeric=True) for t in numeric), *map(Column, last))
    return noted(Table(name, caption, heads, tuple(map(tuple, rows))))


def noted(shown: Table) -> Table:
    """The table with what the mark of an interval says, where one stands in it."""
    marked = any(cell.text.endswith(FEW) for row in shown.rows for cell in row)
    return replace(shown, caption=shown.caption + _FEW_MEANS) if marked else shown


def text_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of texts, for commands: `text_table(head, rows).plain()`."""
    return table("", "", (map(Cell, map(str, row)) for row in rows), *head)


def markdown_lines(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]
) -> str:
    """A table of cells that are Markdown already; `right` says which columns are flush right."""
    rule = [" ---: " if side else " --- " for side in right]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def share(value: float | None) -> Cell:
    """A fraction in percent, or a difference in points."""
    return Cell(percent(value), value)


def number(value: int | None) -> Cell:
    """A whole number."""
    return Cell(count(value), value)


def estimate(
    value: Any, *, best: bool = False, marked: bool = True, method: str | None = None
) -> Cell:
    """A fraction with its interval, of what has a value, low and high; None is a dash.

    Where it is `marked`, an interval has a mark whose `method`, its own by default, is for few
    documents.
    """
    how = str(method or getattr(value, "method", "")) if marked else ""
    few = any(way in how for way in ("logit", "near 0 and 1", "MOVER"))
    return Cell(interval(value) + f" {FEW}" * few, value.value if value else None, best)


def p_value(p: float | None) -> Cell:
    """A p value."""
    return Cell(NONE if p is None else show_p(p).removeprefix("= "), p)


def as_csv(rows: Sequence[Row]) -> bytes:
    """A CSV file with a header."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape.csv_cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def as_parquet(rows: Sequence[Row]) -> bytes:
    """The same with types: text, 64-bit whole numbers, 64-bit floating point."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str) -> Any:
        short = name.removeprefix("first_").removeprefix("second_")
        return pa.string() if short in _TEXT else pa.int64() if short in _WHOLE else pa.float64()

    schema = pa.schema([(name, kind(name)) for name in rows[0]])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(encodable(rows), schema=schema), buffer)
    return buffer.getvalue()
