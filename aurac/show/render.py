"""The content of a report as HTML, Markdown and LaTeX; no number is made here."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.curves.display import interval, percent
from aurac.show import escape
from aurac.show.content import NONE, Bullets, Code, Examples, Fold, Picture, Table, Text
from aurac.show.documents import RIGHT
from aurac.show.model import bold_means, ordered

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aurac.show.content import Block, Report
    from aurac.show.documents import Sample
    from aurac.show.model import CurveRow, Run

LIMIT = 1_900_000  # bytes of a page
_TEMPLATES = Path(__file__).parent / "templates"
_CODE = 20_000


def html(report: Report) -> str:
    """The page, without its folded parts and samples where it would be too large to send around."""
    page = _page(report)
    if len(page.encode()) <= LIMIT:
        return page
    sections = (
        replace(section, blocks=tuple(map(_without_fold, section.blocks)))
        for section in report.sections
    )
    return _page(replace(report, sections=tuple(sections)))


def _without_fold(block: Block) -> Block:
    if isinstance(block, Examples):
        return replace(block, browse=False)
    if isinstance(block, Fold):
        left = "left out of this page for its size, see report.md and the files."
        return Text(f"{block.summary}: {left}")
    return block


def _page(report: Report) -> str:
    """The template escapes whatever is not marked as this package's own SVG, style or script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"visible": escape.typeset, "line": escape.one_line}
    environment.filters["kind"] = lambda block: type(block).__name__
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report,
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def markdown(report: Report) -> str:
    """The report as one Markdown document that GitHub renders, with the SVG files as pictures."""
    text = [f"# {escape.markdown(report.title)}", escape.markdown(report.lead)]
    text += [f"**{escape.markdown(sentence)}**" for sentence in report.verdict]
    if report.tiles:
        rows = [
            [tile.title, tile.value, "; ".join(line.removesuffix(".") for line in tile.lines)]
            for tile in report.tiles
        ]
        text.append(markdown_table(["", "", ""], rows, "lll"))
    text += [_markdown(block) for block in report.first]
    for section in report.sections:
        text.append(f"## {escape.markdown(section.title)}")
        text += [_markdown(block) for block in section.blocks]
    version = escape.markdown(report.version)
    text.append(f"Made by aurac {version} from stored cells; `aurac report` makes it again.")
    return "\n\n".join(part for part in text if part) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A table; `align` has an l or r for each column."""
    escaped = [[escape.markdown(text) for text in row] for row in (head, *rows)]
    return _table(escaped[0], escaped[1:], align)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A table of cells that are Markdown already; `align` has an l or r for each column."""
    rule = [" ---: " if side == "r" else " --- " for side in align]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _markdown(block: Block) -> str:
    plain = escape.markdown
    match block:
        case Text(text):
            shown = plain(text)
        case Bullets(items):
            shown = "\n".join(f"- {plain(item)}" for item in items)
        case Table(_, caption, columns, rows):
            head = [plain(column.title) for column in columns]
            cells = [
                [("**{}**" if cell.best else "{}").format(plain(cell.text)) for cell in row]
                for row in rows
            ]
            align = "".join("r" if column.numeric else "l" for column in columns)
            shown = f"{plain(caption)}\n\n{_table(head, cells, align)}"
        case Picture(_, caption, alt, file):
            shown = f"![{plain(alt)}]({file})\n\n{plain(caption)}"
        case Examples(intro, samples):
            shown = "\n\n".join([plain(intro), *map(_example, samples.examples())])
        case Code(text):
            shown = escape.markdown_fence(text, _CODE, "sh")
        case Fold(summary, blocks):
            inner = "\n\n".join(map(_markdown, blocks))
            shown = f"<details><summary>{plain(summary)}</summary>\n\n{inner}\n\n</details>"
    return shown


def _example(sample: Sample) -> str:
    kind = escape.markdown(sample.kind.capitalize())
    text = [f"### {kind}: document {escape.markdown(sample.document['id'])}"]
    if sample.document["question"]:
        text += ["Question:", escape.markdown_fence(sample.document["question"], _CODE)]
    if sample.document["target"]:
        text.append(f"Reference: {_lines(sample.document['target'])}")
    heads = []
    for rank, _, score in sample.answers:
        mark = f"rank {rank}, {'✓ right' if score >= RIGHT else '✗ wrong'}"
        heads.append(mark if score in (0, 1) else f"{mark} (score {score:.3g})")
    answers = [_lines(answer or "(empty)") for _, answer, _ in sample.answers]
    text.append(_table([escape.markdown(head) for head in heads], [answers], "l" * len(heads)))
    return "\n\n".join(text)


def _lines(text: str) -> str:
    """Several lines in one cell of a table."""
    return "<br>".join(escape.markdown(line) for line in text.strip("\n").split("\n"))


_LATEX_NAME = 40  # characters of an adapter's name that a column holds
_LATEX_ROWS = 40
_LATEX_HEAD = (
    "% Made by aurac from results.json. Needs \\usepackage{booktabs,graphicx} and, for pdfLaTeX,\n"
    "% \\usepackage[T1]{fontenc} and \\usepackage{textcomp}."
)
_LATEX_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Makes what follows as narrow as the column where it is wider."""


def latex(run: Run, best: Collection[str]) -> str:
    """The AURAC tables of a run for a paper: booktabs, one for each task, `best` in bold."""
    tables = [_latex_table(run.of_task(task), task, best) for task in run.task_names]
    return "\n\n".join([_LATEX_HEAD, *tables]) + "\n"


def _latex_table(every: Sequence[CurveRow], task: str, best: Collection[str]) -> str:
    import pandas as pd

    curves, rest = ordered(every)[:_LATEX_ROWS], len(every[_LATEX_ROWS:])
    metric = ", ".join(dict.fromkeys(curve.metric for curve in curves))
    left = f" The {rest} lowest rows are left out." if rest else ""
    bold = bold_means(curves, best)
    rows = [_latex_row(curve, bold=curve.id in best) for curve in curves]
    bases = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
    if len(bases) == 1:
        rows.append(["base model", "", "0", *[percent(next(iter(bases)))] * 3])
    heads = ["adapter", "truncation", "ranks", "AURAC (log2)", "AURAC (linear)", "mean"]
    frame = pd.DataFrame(rows, columns=heads)
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="@{}lllrrr@{}",
        position_float="centering",
        caption=(
            rf"AURAC on {escape.latex(task)} in percent with 95\,\% intervals, metric "
            rf"{escape.latex(metric)}.{bold}{left}"
        ),
    )
    text = text.rstrip().replace("\\begin{tabular}", f"{_LATEX_FIT}\n\\begin{{tabular}}", 1)
    return text.replace("\\end{tabular}", "\\end{tabular}}", 1)


def _latex_row(curve: CurveRow, *, bold: bool) -> list[str]:
    area = _latex_interval(interval(curve.log2))
    if bold:
        number, _, rest = area.partition(" ")
        area = rf"\textbf{{{number}}} {rest}".rstrip()
    return [
        escape.latex(escape.one_line(curve.adapter, _LATEX_NAME)),
        escape.latex(curve.truncation),
        f"{curve.ranks[0]}--{curve.ranks[-1]}" if len(curve.ranks) > 1 else "--",
        area,
        _latex_interval(interval(curve.linear)),
        _latex_interval(percent(curve.mean)),
    ]


def _latex_interval(text: str) -> str:
    number, _, rest = text.partition(" ")
    shown = "--" if number == NONE else number
    return rf"{shown} {{\small {rest}}}" if rest else shown
