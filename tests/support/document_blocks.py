"""The fenced blocks of the documents, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = sorted(page for page in (REPOSITORY / "docs").rglob("*.md") if "design" not in page.parts)

_FENCED = r"^```(\S*)[^\n]*\n(.*?)^```[ \t]*(?:\n\s*```text\n(.*?)^```)?"

ELSEWHERE = ("needs the hub", "needs the data", "needs a server")
"""What a command says in its comment if it cannot run where the tests do."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the text block that follows at once, if any."""

    language: str
    text: str
    said: str | None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(_FENCED, text, re.MULTILINE | re.DOTALL)
    return [Block(language, body, said or None) for language, body, said in found]


def joined(text: str) -> str:
    """Shell lines whose end a backslash joins to the next line, as one."""
    return re.sub(r"\\\n\s*", "", text)


def lines(page: Path) -> list[str]:
    """The command lines of a page's shell blocks; a backslash joins the next line."""
    shell = [joined(block.text) for block in blocks(page) if block.language in ("bash", "sh")]
    return [line for text in shell for line in text.splitlines() if line.strip()]


def runs_here(line: str) -> bool:
    """Whether a command line can run without a hub and without data that nobody has."""
    return not any(mark in line for mark in ELSEWHERE)


def aurac_words(line: str) -> list[list[str]]:
    """The words after `aurac` (or `python -m aurac`) of each such command in a line."""
    found = []
    for part in line.split("&&"):
        words = shlex.split(part, comments=True)
        if words[:3] == ["python", "-m", "aurac"]:
            words = words[2:]
        if words[:1] == ["aurac"]:
            found.append(words[1:])
    return found
