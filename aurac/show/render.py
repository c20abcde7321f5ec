"""The content of a report, and the same as HTML, Markdown and LaTeX; no number is made here."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from aurac.curves.display import sentence_case
from aurac.show import escape
from aurac.show.documents import RIGHT
from aurac.show.table import Table, markdown_lines
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.show.documents import Sample, Samples

LIMIT = 1_900_000  # bytes of a page
_TEMPLATES = Path(__file__).parent / "templates"
_CODE = 20_000


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
class Collapsed:
    """Blocks that most readers skip, behind a summary line."""

    summary: str
    blocks: tuple[Block, ...]


Block = Union[Text, Bullets, Table, Picture, Examples, Code, "Collapsed"]


@dataclass(frozen=True)
class Tile:
    """A number of the first screen, with what it is and what to know about it.

    `command` opens the first line; `top` says that a narrow page has the tile above the chart.
    """

    title: str
    value: str
    lines: tuple[str, ...]
    command: str = ""
    top: bool = False


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
    scope: tuple[str, ...]  # of what it holds
    tiles: tuple[Tile, ...]  # its numbers, for a single task
    first: tuple[Block, ...]  # beside them the chart, or for several tasks a table and an overview
    sections: tuple[Section, ...]  # the rest
    version: str  # of aurac


def without(block: Block, opening: str) -> Block:
    """A block whose caption or text no longer begins with `opening`."""
    if isinstance(block, Collapsed):
        return replace(block, blocks=tuple(without(inner, opening) for inner in block.blocks))
    if isinstance(block, (Picture, Table)) and block.caption.startswith(opening):
        return replace(block, caption=sentence_case(block.caption.removeprefix(opening)))
    if isinstance(block, Text) and block.text.startswith(opening):
        return replace(block, text=sentence_case(block.text.removeprefix(opening)))
    return block


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
    if isinstance(block, Collapsed):
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
    environment.filters |= {"visible": escape.typeset, "line": one_line}
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
    text += [escape.markdown(sentence) for sentence in report.scope]
    if report.tiles:
        text.append("\n".join(map(_tile, report.tiles)))
    text += [_markdown(block) for block in report.first]
    for section in report.sections:
        text.append(f"## {escape.markdown(section.title)}")
        text += [_markdown(block) for block in section.blocks]
    version = escape.markdown(report.version)
    text.append(f"Made by aurac {version} from stored cells; `aurac report` makes it again.")
    return "\n\n".join(part for part in text if part) + "\n"


def _tile(tile: Tile) -> str:
    text = ""
    for line in tile.lines:  # a sentence ends with a full stop, and what stands before one does
        before = text.removesuffix(".")
        between = ". " if line.endswith(".") or before != text else "; "
        text = f"{before}{between if text else ''}{line}"
    command = f"`{tile.command}` " if tile.command else ""
    text = escape.markdown(text.removesuffix("."))
    return f"- {tile.title}: **{escape.markdown(tile.value)}**. {command}{text}."


def _markdown(block: Block) -> str:
    plain = escape.markdown
    match block:
        case Text(text):
            shown = plain(text)
        case Bullets(items):
            shown = "\n".join(f"- {plain(item)}" for item in items)
        case Table(_, caption):
            shown = f"{plain(caption)}\n\n{block.markdown()}"
        case Picture(_, caption, alt, file):
            shown = f"![{plain(alt)}]({file})\n\n{plain(caption)}"
        case Examples(intro, samples):
            shown = "\n\n".join([plain(intro), *map(_example, samples.examples())])
        case Code(text):
            shown = escape.markdown_fence(text, _CODE, "sh")
        case Collapsed(summary, blocks):
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
    heads = [escape.markdown(head) for head in heads]
    text.append(markdown_lines(heads, [answers], [False] * len(heads)))
    return "\n\n".join(text)


def _lines(text: str) -> str:
    """Several lines in one cell of a table."""
    return "<br>".join(escape.markdown(line) for line in text.strip("\n").split("\n"))


_LATEX_HEAD = (
    "% Made by aurac from results.json. Needs \\usepackage{booktabs} and, for pdfLaTeX,\n"
    "% \\usepackage[T1]{fontenc} and \\usepackage{textcomp}."
)


def latex(tables: Iterable[Table]) -> str:
    """Tables for a paper."""
    return "\n\n".join([_LATEX_HEAD, *(table.latex() for table in tables)]) + "\n"
