"""The report as one HTML file: no request leaves it, and nothing in it runs but its own script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.report import escape

if TYPE_CHECKING:
    from aurac.report.blocks import Report

_TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """The page; the template escapes whatever is not marked as this package's own SVG or script."""
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
