"""Screens and the files of a report, taken apart: sentences, and tables as rows of cells."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser


def screen_blocks(text):
    """Lines of a screen: ("text", sentence) and ("table", rows of cells)."""
    blocks, lines = [], []
    for line in [*text.splitlines(), ""]:
        if re.search(r"\S {2,}\S", line) and not line.startswith("  aurac "):
            lines.append(line)
            continue
        if lines:
            blocks.append(("table", columns(lines)))
        lines = []
        if line.strip():
            blocks.append(("text", line.strip()))
    return blocks


def columns(lines):
    """Columns are apart where all lines have two spaces or more."""
    width = max(map(len, lines))
    lines = [line.ljust(width) for line in lines]
    blank = "".join(" " if all(line[at] == " " for line in lines) else "x" for at in range(width))
    spans = [m.span() for m in re.finditer(r"x+(?: x+)*", blank)]
    return [[line[a:b].strip() for a, b in spans] for line in lines]


def markdown_blocks(text):
    """("head", …), ("text", …), ("figure", …) and ("table", …); code is left out."""
    blocks, rows = [], []
    text = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", text)
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([unescaped(part.strip()) for part in line.strip("|").split("|")])
            continue
        if rows:
            blocks.append(("table", [rows[0], *rows[2:]]))
        rows = []
        if line.startswith("## "):
            blocks.append(("head", unescaped(line[3:])))
        elif line.startswith("!["):
            blocks.append(("figure", unescaped(line[2:].rpartition("](")[0])))
        elif line.strip() and not line.startswith("<"):
            blocks.append(("text", unescaped(line.strip("#* "))))
    return blocks


def unescaped(text):
    return re.sub(r"\\(.)", r"\1", html.unescape(text))


class Html(HTMLParser):
    """The tables of a page, and its texts outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.texts, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("meta", "link", "img"):
            self.inside.pop()

    def handle_endtag(self, tag):
        self.inside.pop()

    def handle_data(self, data):
        if self.inside and self.inside[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data.strip()
        elif self.inside and self.inside[-1] not in ("script", "style"):
            self.texts.append(data.strip())


LATEX = {r"\ensuremath{-}": "−", r"\textgreater{}": ">", r"\textless{}": "<", "--": "–", "{-}": "-"}
LATEX |= {r"\textperiodcentered{}": "·", "{}": ""}


def latex_tables(text):
    """Caption and rows of each table."""
    found = []
    for block in text.split(r"\begin{table*}")[1:]:
        body = block.partition(r"\toprule")[2].partition(r"\bottomrule")[0].replace(r"\midrule", "")
        rows = [line.strip() for line in body.split("\\\\") if line.strip()]
        caption = re.search(r"\\caption{(.*)}\n", block)[1]
        found.append((plain(caption), [[plain(x) for x in row.split("&")] for row in rows]))
    return found


def plain(text):
    """LaTeX as text."""
    for old, new in LATEX.items():
        text = text.replace(old, new)
    return re.sub(r"\\([%_#&$])", r"\1", text).strip()
