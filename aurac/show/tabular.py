"""One frame of strings as a table for the terminal, Markdown, LaTeX or HTML."""

from __future__ import annotations

import re
from html import escape as html_escape
from typing import TYPE_CHECKING, Final, Literal

from tabulate import tabulate

from aurac.show import escape
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pandas import DataFrame

Style = Literal["text", "markdown", "latex", "html"]

_STYLES: Final[Mapping[str, tuple[str, Callable[[object], str]]]] = {
    "text": ("plain", one_line),
    "markdown": ("pipe", escape.markdown),
    "latex": ("latex_raw", escape.latex_cell),
    "html": ("unsafehtml", lambda text: html_escape(one_line(text))),
}


def render_table(
    frame: DataFrame,
    style: Style = "text",
    *,
    left: Collection[str] = (),
) -> str:
    """A frame as a table; names and cells are escaped for the format.

    Args:
        frame: A column for each column of the table; its index is not shown.
        style: "text" (columns apart), "markdown" (GitHub's), "latex" (booktabs) or "html".
        left: Columns of words. These and the first (unless it is "rank") are aligned left,
            all others right.
    """
    name, safe = _STYLES[style]
    columns = [[safe(str(value)) for value in frame[column]] for column in frame.columns]
    words = {*left, *frame.columns[:1]} - {"rank"}
    sides = ["left" if column in words else "right" for column in frame.columns]
    rows, heads = list(zip(*columns, strict=True)), [safe(column) for column in frame.columns]
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
