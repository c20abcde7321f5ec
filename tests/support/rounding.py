"""Texts whose numbers were computed on another processor."""

from __future__ import annotations

import re


def rounded(text: str) -> str:
    """The text with long numbers at seven digits: processors differ in the last ones."""
    return re.sub(r"\d+\.\d{9,}(?:e-?\d+)?", lambda found: f"{float(found[0]):.7g}", text)
