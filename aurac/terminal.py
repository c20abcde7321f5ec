"""Text for terminals: control characters are spelled out, long lines are broken between words."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Controls but tab and newline, bidirectional marks, line separators, surrogates, private use.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]"
)
_SPACE = re.compile(r"[ \t\n]+")  # not `\s`: a no-break space is there on purpose
_ASCII = str.maketrans({"−": "-", "–": "-", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "×": "x"})


def spelled(text: object) -> str:
    r"""`text` with control characters and the like as ``\u001b``; of JSON the same content."""

    def escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))

    return _HIDDEN.sub(escape, str(text))


def one_line(text: object, limit: int | None = None) -> str:
    """`text` spelled out on one line, cut in the middle where it is longer than `limit`."""
    line = _SPACE.sub(" ", spelled(text)).strip(" ")
    if limit is None or len(line) <= limit:
        return line
    tail = max(1, limit // 3)
    return f"{line[: limit - tail - 1].rstrip()}…{line[-tail:].lstrip()}"


def output_width() -> int:
    """Characters in a line: `COLUMNS`, else of the terminal; a pipe has room for any table."""
    return shutil.get_terminal_size((200, 24)).columns


def wrapped(text: str, width: int | None) -> str:
    """`text` with long lines broken between words; continuation lines are not indented.

    Commands, which are indented, stay whole, so that they can be copied.
    """
    if width is None:
        return text
    return "\n".join(
        line
        if len(line) <= width or line.startswith(" ")
        else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


class VisibleStream:
    """A text stream that spells control characters out, and replaces what it cannot encode."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str | bytes) -> int:
        """Write, spelled out; click sends what the shell completes as bytes."""
        if text == b"":  # click asks so whether it must encode
            raise TypeError("this is a stream of text")
        shown = spelled(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        if not encoding.lower().startswith("utf"):
            shown = shown.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(shown)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # nobody writes bytes past it
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """Standard output spells out, until the block ends."""
    before = sys.stdout
    sys.stdout = VisibleStream(before)
    try:
        yield
    finally:
        sys.stdout = before
