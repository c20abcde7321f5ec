"""A table of texts for the terminal, Markdown, LaTeX or HTML."""

from __future__ import annotations

import re
from html import escape as html_escape
from typing import TYPE_CHECKING, Final, Literal

from tabulate import tabulate

from aurac.show import escape
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

Columns = dict[str, list[str]]
"""The cells of each column, by its head."""
Style = Literal["text", "markdown", "latex", "html"]

_STYLES: Final[Mapping[str, tuple[str, Callable[[object], str]]]] = {
    "text": ("plain", one_line),
    "markdown": ("pipe", escape.markdown),
    "latex": ("latex_raw", escape.latex_cell),
    "html": ("unsafehtml", lambda text: html_escape(one_line(text))),
}


def render_table(
    columns: Mapping[str, Sequence[str]], style: Style = "text", *, left: Collection[str] = ()
) -> str:
    """Columns as a table; heads and cells are escaped for the format.

    The columns named in `left` and the first (unless it is "rank") are aligned left.
    """
    name, safe = _STYLES[style]
    words = {*left, *list(columns)[:1]} - {"rank"}
    sides = ["left" if head in words else "right" for head in columns]
    cells = [[safe(cell) for cell in column] for column in columns.values()]
    rows, heads = list(zip(*cells, strict=True)), [safe(head) for head in columns]
    if style == "text":  # tabulate pads heads, which takes room that a terminal has not
        rows, heads = [tuple(heads), *rows], []
    text = tabulate(
        rows,
        headers=heads,
        tablefmt=name,
        colalign=sides if rows else None,
        disable_numparse=True,
    )
    if style == "latex":
        for rule in ("toprule", "midrule", "bottomrule"):
            text = text.replace(r"\hline", rf"\{rule}", 1)
    return re.sub("<th(?=[ >])", '<th scope="col"', text) if style == "html" else text
