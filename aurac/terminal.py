"""The two terminals: results go to standard output, progress and messages to standard error.

What is written passes a stream that spells control characters out, so that nothing that was read
from a file moves the cursor. Rich's consoles write past that stream: their own control codes reach
the terminal. What the encoding of a stream lacks, such as a minus sign, is replaced.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_WIDE = 200  # a pipe has no width; a table takes what it needs

# Controls but tab and newline, bidirectional marks, line separators, surrogates, private use.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]"
)
_TOGETHER = re.compile(r"`[^`]*`|\d %| [·−]|use: .*")
_SPACE = re.compile(r"[ \t\n]+")  # not `\s`: a no-break space is there on purpose
_ASCII = str.maketrans({"−": "-", "–": "-", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "×": "x"})


def spelled(text: object) -> str:
    r"""`text` with control characters and the like as ``\u001b``; of JSON the same content."""

    def escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))

    return _HIDDEN.sub(escape, str(text))


def encodable(text: str, stream: IO[str]) -> str:
    r"""`text` as the stream can write it: what it lacks becomes ASCII, or ``\u2264``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def one_line(text: object, limit: int | None = None) -> str:
    """`text` spelled out on one line, cut in the middle where it is longer than `limit`."""
    line = _SPACE.sub(" ", spelled(text)).strip(" ")
    if limit is None or len(line) <= limit:
        return line
    tail = max(1, limit // 3)
    return f"{line[: limit - tail - 1].rstrip()}…{line[-tail:].lstrip()}"


def terminal_width(*, error: bool = False) -> int | None:
    """Characters in a line of standard output, or error, where that is a terminal; else None."""
    stream = sys.stderr if error else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wrapped(text: str, width: int | None) -> str:
    """`text` with its long lines broken between words; what is in backquotes stays together.

    Further lines are as far to the right as the first one. Those of a command continue it.
    """
    if width is None:
        return text
    lines = text.split("\n")
    for at, line in enumerate(lines):
        command = line.startswith("aurac ") and "'" not in line
        if len(line) > width:
            indent = 4 * command or len(line) - len(line.lstrip(" "))
            kept = _TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), line)
            parts = textwrap.wrap(
                kept,
                width - 2 * command,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines[at] = (" \\\n" if command else "\n").join(parts).replace("\0", " ")
    return "\n".join(lines)


class VisibleStream:
    """A text stream that spells control characters out."""

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream  # the stream beneath, under the name that rich looks for

    def write(self, text: str | bytes) -> int:
        """Write, spelled out; click sends what the shell completes as bytes."""
        if text == b"":  # click asks so whether it must encode
            raise TypeError("this is a stream of text")
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        self.rich_proxied_file.write(encodable(spelled(shown), self.rich_proxied_file))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # nobody writes bytes past it
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


class _Terminal:
    """A standard stream as it is now, beneath all that spells out or redirects it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> IO[str]:
        stream = getattr(sys, self._name)
        while (beneath := getattr(stream, "rich_proxied_file", None)) is not None:
            stream = beneath
        return stream  # type: ignore[no-any-return]

    def write(self, text: str) -> int:
        """Write what the stream can encode."""
        self._stream.write(encodable(text, self._stream))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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


@lru_cache(maxsize=1)
def stderr_console() -> Console:
    """For progress, warnings and errors (plain when it is not a terminal; honours NO_COLOR)."""
    from rich.console import Console

    return Console(file=_Terminal("stderr"))  # type: ignore[arg-type]


def stdout_console() -> Console:
    """For results: as wide as the terminal; on a pipe as wide as `COLUMNS` says, else 200."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(file=_Terminal("stdout"))  # type: ignore[arg-type]
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else _WIDE
    return Console(width=width, force_terminal=False)


def step_bar(*columns: ProgressColumn) -> Progress:
    """A bar of counted steps for `drawn`; `columns` stand before the time left."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        *columns,
        progress.TimeRemainingColumn(),
        console=stderr_console(),
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=600,  # seconds; a step may take minutes
    )


@contextmanager
def drawn(bar: Progress) -> Iterator[None]:
    """Within this block a `step_bar` is drawn below what else is written.

    Rich's own redirection is off: it would let control characters through.
    """
    from rich.file_proxy import FileProxy

    def give_back(name: str, stream: Any) -> None:
        getattr(sys, name).flush()  # a last line without its end
        setattr(sys, name, stream)

    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                stack.callback(give_back, name, stream)
                above: Any = FileProxy(bar.console, stream)
                setattr(sys, name, VisibleStream(above))
        stack.enter_context(bar)
        yield
