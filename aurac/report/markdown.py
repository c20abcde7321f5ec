"""The report as Markdown that GitHub renders; pictures are the SVG files beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.report.escape import markdown, markdown_fence, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from aurac.report import blocks

_QUESTION, _ANSWER, _CODE = 1200, 800, 20_000


def render(report: blocks.Report) -> str:
    """The report as one Markdown document."""
    parts = [f"# {markdown(report.title)}", markdown(report.lead)]
    for section in report.sections:
        parts.append(f"## {markdown(section.title)}")
        parts += [_block(block) for block in section.blocks]
    version = markdown(report.version)
    parts.append(f"Made by aurac {version} from stored cells; `aurac report` makes it again.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: blocks.Block) -> str:
    return _RENDERERS[block.kind](block)


def _text(block: blocks.Text) -> str:
    text = markdown(block.text)
    return f"**{text}**" if block.strong else text


def _bullets(block: blocks.Bullets) -> str:
    return "\n".join(f"- {markdown(item)}" for item in block.items)


def _table(block: blocks.Table) -> str:
    head = _row([column.title for column in block.columns])
    rule = "|" + "|".join(" ---: " if c.numeric else " --- " for c in block.columns) + "|"
    rows = [_row_of(row) for row in block.rows]
    return "\n".join([markdown(block.caption), "", head, rule, *rows])


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(markdown(text) for text in texts) + " |"


def _row_of(row: tuple[blocks.Cell, ...]) -> str:
    texts = [markdown(cell.text) for cell in row]
    bold = [f"**{text}**" if cell.best else text for cell, text in zip(row, texts, strict=True)]
    return "| " + " | ".join(bold) + " |"


def _picture(block: blocks.Picture) -> str:
    return f"![{markdown(block.alt)}]({block.file})\n\n{markdown(block.caption)}"


def _examples(block: blocks.Examples) -> str:
    return "\n\n".join(_example(example) for example in block.examples)


def _example(example: Any) -> str:
    parts = [f"### {markdown(example.kind.capitalize())}: document {markdown(example.doc_id)}"]
    if example.wording.question:
        parts += ["Question:", markdown_fence(example.wording.question, _QUESTION)]
    if example.wording.target:
        parts.append(f"Reference: {_lines(shorten(example.wording.target, 300))}")
    heads = [f"rank {answer.rank}, {_mark(answer)}" for answer in example.answers]
    cells = [_lines(shorten(answer.text or "(empty)", _ANSWER)) for answer in example.answers]
    rule = "|" + " --- |" * len(heads)
    parts.append("\n".join([_row(heads), rule, f"| {' | '.join(cells)} |"]))
    return "\n\n".join(parts)


def _mark(answer: Any) -> str:
    mark = "✓ right" if answer.right else "✗ wrong"
    return mark if answer.score in (0, 1) else f"{mark} (score {answer.score:.3g})"


def _lines(text: str) -> str:
    """Several lines in one cell of a table."""
    return "<br>".join(markdown(line) for line in text.strip("\n").split("\n"))


def _code(block: blocks.Code) -> str:
    return markdown_fence(block.text, _CODE).replace("text\n", "sh\n", 1)


def _fold(block: blocks.Fold) -> str:
    inner = "\n\n".join(_block(part) for part in block.blocks)
    return f"<details><summary>{markdown(block.summary)}</summary>\n\n{inner}\n\n</details>"


_RENDERERS: dict[str, Callable[[Any], str]] = {
    "text": _text,
    "bullets": _bullets,
    "table": _table,
    "picture": _picture,
    "examples": _examples,
    "code": _code,
    "fold": _fold,
}
