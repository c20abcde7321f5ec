"""The report as one HTML file: no request leaves it, and nothing in it runs but its own script."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

from aurac.report import escape
from aurac.report.blocks import Block, Fold, Report, Text

LIMIT = 1_900_000  # bytes
_TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """The page, without its folded parts where it would be too large to send around."""
    page = _render(report)
    return page if len(page.encode()) <= LIMIT else _render(_unfolded(report))


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


def _render(report: Report) -> str:
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
