"""Nothing that was read from a file can move the cursor: control characters are spelled out.

Names of adapters and tasks, paths, model answers and messages of libraries are printed by many
commands. Rather than each of them taking care, what is written to the terminal passes here.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Controls but tab and newline, bidirectional marks, line separators, surrogates, private use.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]"
)


def spelled(text: str) -> str:
    r"""`text` with what a terminal would not show as a character written as ``\u001b``.

    In JSON, where such a character can only stand inside a string, that is the same string.
    """
    return _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


class VisibleStream:
    """A text stream that spells out; rich, which escapes and colours by itself, writes past it."""

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str | bytes) -> int:
        """Write, spelled out; click sends what the shell completes as bytes."""
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        self.rich_proxied_file.write(spelled(shown))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # nobody writes bytes past it
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


@contextmanager
def visible_streams() -> Iterator[None]:
    """Standard output and standard error spell out, until the block ends."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if isinstance(stream, VisibleStream) else VisibleStream(stream) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
