"""Names, prompts and model outputs are hostile until escaped; one function for each format.

Everything that did not come from this package passes through one of these on its way out. The
order is always the same: first `spelled` turns control characters into harmless text, then the
format's own rule applies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aurac.terminal import one_line, spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-!|~$&.:@])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # otherwise two of them join into a dash
    "·": r"\textperiodcentered{}",
    "×": r"\ensuremath{\times}",
    "–": "--",
    "−": r"\ensuremath{-}",
    "…": r"\dots{}",
}


def shorten(text: object, limit: int) -> str:
    """`spelled` text of at most `limit` characters, saying how many were left out."""
    shown = spelled(text)
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()} … ({len(shown) - limit} more characters)"


def markdown(text: object) -> str:
    """Text that GitHub's Markdown shows as it is: no emphasis, link, table bar, HTML or mention."""
    return _MARKDOWN.sub(_markdown_char, one_line(text))


def _markdown_char(match: re.Match[str]) -> str:
    char = match[1]
    named = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "@": "&#64;", "$": "&#36;"}
    if char in named:
        return named[char]
    if char not in ".:()-+":
        return "\\" + char
    # A backslash before these would show in some renderers. Only list marks at the start of a text,
    # and the colon and dots of an automatic link, can matter.
    line, at = match.string, match.start()
    follows = line[at + 1 : at + 2]
    starts_list = not line[:at].strip("0123456789") and char in ".)-+" and follows in " -"
    makes_link = line[at : at + 3] == "://" or (char == "." and line[max(0, at - 3) : at] == "www")
    return "\\" + char if starts_list or makes_link else char


def markdown_fence(text: object, limit: int) -> str:
    """A fenced block holding `text`, with a fence longer than any run of backticks inside."""
    shown = shorten(text, limit)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def latex(text: object) -> str:
    """Text for a LaTeX paragraph or table cell; what pdfLaTeX cannot set is shown as U+XXXX."""
    return "".join(_latex_char(char) for char in one_line(text))


def latex_cell(text: object) -> str:
    r"""`latex` text that the ``\\`` of the line before does not take for its argument."""
    written = latex(text)
    return f"{{}}{written}" if written.startswith(("[", "*")) else written


def _latex_char(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
    # Latin-1 letters and Latin Extended-A are what inputenc's utf8 and T1 fonts know by heart.
    if char.isascii() or (char.isalpha() and ord(char) < 0x17F):
        return char
    return f"U+{ord(char):04X}"


def csv_cell(value: object) -> object:
    """Numbers as they are; text that a spreadsheet would run as a formula behind an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def slug(text: object) -> str:
    """A file name made of `text`: lower-case letters, digits, dot, dash and underscore only."""
    kept = re.sub(r"[^a-z0-9._-]+", "-", str(text).lower()).strip("-._")
    return kept[:60] or "task"


def unique_slugs(names: Sequence[str]) -> dict[str, str]:
    """A file name for each name; two that would share one are numbered."""
    slugs: dict[str, str] = {}
    for given in names:
        name, at = slug(given), 2
        while name in slugs.values():
            name, at = f"{slug(given)}-{at}", at + 1
        slugs[given] = name
    return slugs
