"""The content of a report as HTML, Markdown and LaTeX."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.report import escape
from aurac.report.content import Block, Fold, Report, Text
from aurac.report.escape import markdown_fence, one_line, shorten
from aurac.report.model import ordered
from aurac.report.tables import NONE, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.report import content
    from aurac.report.model import CurveRow, Interval, Run


LIMIT = 1_900_000  # bytes
_TEMPLATES = Path(__file__).parent / "templates"


def html(report: Report) -> str:
    """The page, without its folded parts where it would be too large to send around."""
    page = _page(report)
    return page if len(page.encode()) <= LIMIT else _page(_unfolded(report))


def _unfolded(report: Report) -> Report:
    sections = [
        replace(section, blocks=tuple(_without_fold(block) for block in section.blocks))
        for section in report.sections
    ]
    return replace(report, sections=tuple(sections))


def _without_fold(block: Block) -> Block:
    if not isinstance(block, Fold):
        return block
    return Text(
        f"{block.summary}: left out of this page for its size, see report.md and the files."
    )


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
    environment.filters |= {
        "visible": escape.typeset,
        "line": escape.one_line,
        "short": escape.shorten,
    }
    script = _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report,
        style=_read("report.css"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


_QUESTION, _ANSWER, _CODE = 1200, 800, 20_000


def markdown(report: content.Report) -> str:
    """The report as one Markdown document."""
    parts = [f"# {escape.markdown(report.title)}", escape.markdown(report.lead)]
    for section in report.sections:
        parts.append(f"## {escape.markdown(section.title)}")
        parts += [_block(block) for block in section.blocks]
    version = escape.markdown(report.version)
    parts.append(f"Made by aurac {version} from stored cells; `aurac report` makes it again.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: content.Block) -> str:
    return _RENDERERS[block.kind](block)


def _text(block: content.Text) -> str:
    text = escape.markdown(block.text)
    return f"**{text}**" if block.strong else text


def _bullets(block: content.Bullets) -> str:
    return "\n".join(f"- {escape.markdown(item)}" for item in block.items)


def _md_table(block: content.Table) -> str:
    head = _md_row([column.title for column in block.columns])
    rule = "|" + "|".join(" ---: " if c.numeric else " --- " for c in block.columns) + "|"
    rows = [_row_of(row) for row in block.rows]
    return "\n".join([escape.markdown(block.caption), "", head, rule, *rows])


def _md_row(texts: list[str]) -> str:
    return "| " + " | ".join(escape.markdown(text) for text in texts) + " |"


def _row_of(row: tuple[content.Cell, ...]) -> str:
    texts = [escape.markdown(cell.text) for cell in row]
    bold = [f"**{text}**" if cell.best else text for cell, text in zip(row, texts, strict=True)]
    return "| " + " | ".join(bold) + " |"


def _picture(block: content.Picture) -> str:
    return f"![{escape.markdown(block.alt)}]({block.file})\n\n{escape.markdown(block.caption)}"


def _examples(block: content.Examples) -> str:
    return "\n\n".join(_example(example) for example in block.examples)


def _example(example: Any) -> str:
    parts = [
        (
            f"### {escape.markdown(example.kind.capitalize())}: document "
            f"{escape.markdown(example.doc_id)}"
        )
    ]
    if example.wording.question:
        parts += ["Question:", markdown_fence(example.wording.question, _QUESTION)]
    if example.wording.target:
        parts.append(f"Reference: {_lines(shorten(example.wording.target, 300))}")
    heads = [f"rank {answer.rank}, {_mark(answer)}" for answer in example.answers]
    cells = [_lines(shorten(answer.text or "(empty)", _ANSWER)) for answer in example.answers]
    rule = "|" + " --- |" * len(heads)
    parts.append("\n".join([_md_row(heads), rule, f"| {' | '.join(cells)} |"]))
    return "\n\n".join(parts)


def _mark(answer: Any) -> str:
    mark = "✓ right" if answer.right else "✗ wrong"
    return mark if answer.score in (0, 1) else f"{mark} (score {answer.score:.3g})"


def _lines(text: str) -> str:
    """Several lines in one cell of a table."""
    return "<br>".join(escape.markdown(line) for line in text.strip("\n").split("\n"))


def _code(block: content.Code) -> str:
    return markdown_fence(block.text, _CODE).replace("text\n", "sh\n", 1)


def _fold(block: content.Fold) -> str:
    inner = "\n\n".join(_block(part) for part in block.blocks)
    return f"<details><summary>{escape.markdown(block.summary)}</summary>\n\n{inner}\n\n</details>"


_RENDERERS: dict[str, Callable[[Any], str]] = {
    "text": _text,
    "bullets": _bullets,
    "table": _md_table,
    "picture": _picture,
    "examples": _examples,
    "code": _code,
    "fold": _fold,
}

_NAME = 40  # characters of an adapter's name that a column holds
_HEAD = (
    "% Made by aurac from results.json. Needs \\usepackage{booktabs} and, for pdfLaTeX,\n"
    "% \\usepackage[T1]{fontenc} and \\usepackage{textcomp}."
)


def latex(run: Run, most: int = 40) -> str:
    """The AURAC tables of a run as LaTeX.

    Args:
        run: What was measured.
        most: Rows of a table at most, the largest AURACs first.
    """
    return "\n\n".join([_HEAD, *(_table(run, task, most) for task in run.task_names)]) + "\n"


def _table(run: Run, task: str, most: int) -> str:
    every = run.of_task(task)
    curves = ordered(every)[:most]
    best = max((c.log2.value for c in curves if c.log2 and c.is_default), default=None)
    metric = ", ".join(dict.fromkeys(curve.metric for curve in curves))
    left = f" The {len(every) - most} lowest rows are left out." if len(every) > most else ""
    lines = [
        r"\begin{table}",
        r"\centering",
        (
            rf"\caption{{AURAC on {escape.latex(task)} in percent with 95\,\% intervals; "
            rf"integrated metric {escape.latex(metric)}.{left}}}"
        ),
        r"\begin{tabular}{@{}lllrrr@{}}",
        r"\toprule",
        r"adapter & inference & ranks & log2 & linear & mean \\",
        r"\midrule",
        *[_row(curve, best) for curve in curves],
        *_baseline(curves),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(curve: CurveRow, best: float | None) -> str:
    inference = f"{curve.basis}, {curve.rescale}"
    if curve.role == "published":
        inference += " (published)"
    ranks = f"{curve.ranks[0]}--{curve.ranks[-1]}" if len(curve.ranks) > 1 else "--"
    area = _interval(curve.log2)
    if curve.is_default and curve.log2 and curve.log2.value == best:
        area = rf"\textbf{{{percent(curve.log2.value)}}}{area[len(percent(curve.log2.value)) :]}"
    cells = (
        escape.latex(one_line(curve.adapter, _NAME)),
        escape.latex(inference),
        ranks,
        area,
        _interval(curve.linear),
    )
    return f"{' & '.join(cells)} & {_dash(percent(curve.mean))} \\\\"


def _interval(area: Interval | None) -> str:
    if area is None:
        return "--"
    if area.low is None or area.high is None:
        return percent(area.value)
    return rf"{percent(area.value)} {{\small[{percent(area.low)}, {percent(area.high)}]}}"


def _dash(text: str) -> str:
    return "--" if text == NONE else text


def _baseline(curves: Sequence[CurveRow]) -> list[str]:
    values = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
    if len(values) != 1:
        return []
    return [
        r"\midrule",
        rf"base model & \multicolumn{{5}}{{l}}{{{percent(next(iter(values)))} at rank 0}} \\",
    ]
