"""A command on a pseudo-terminal, and the screen that a terminal emulator shows of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS, LINES = 110, 50
_REDRAWN = b"\r\x1b["


class _Emulator(pyte.Screen):
    """A screen that remembers whether the cursor was ever hidden and how often it was cleared."""

    cleared = 0
    was_hidden = False

    def erase_in_display(self, how: int = 0, *args: object, **kwargs: object) -> None:
        self.cleared += how >= 2
        super().erase_in_display(how, *args, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: bool) -> None:
        super().reset_mode(*modes, **kwargs)
        self.was_hidden |= self.cursor.hidden


@dataclass
class Terminal:
    """What came out of a command.

    Attributes:
        status: Its exit status.
        sent: The bytes that the terminal received.
        screen: The emulator after all of them.
    """

    status: int
    sent: bytes
    screen: _Emulator = field(default_factory=lambda: _Emulator(COLUMNS, LINES))

    def __post_init__(self) -> None:
        pyte.ByteStream(self.screen).feed(self.sent)

    def frames(self) -> list[list[str]]:
        """The lines of the screen before each time that something on it was drawn again."""
        screen = _Emulator(COLUMNS, LINES)
        stream, frames = pyte.ByteStream(screen), []
        for part in self.sent.split(_REDRAWN):
            stream.feed(part)
            frames.append([line.rstrip() for line in screen.display if line.strip()])
            stream.feed(_REDRAWN)
        return frames

    @property
    def lines(self) -> list[str]:
        """The lines of the screen that are not empty."""
        return [line.rstrip() for line in self.screen.display if line.strip()]


def on_a_terminal(
    arguments: Sequence[str],
    *,
    size: tuple[int, int] = (COLUMNS, LINES),
    **environment: str,
) -> Terminal:
    """Run Python with these arguments; all three standard streams are one pseudo-terminal.

    Args:
        arguments: As after `python`.
        size: Columns and lines; `Terminal.screen` has its own.
        environment: Added to that of this process.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    colourless = {"TERM": "xterm", "NO_COLOR": "1"}
    colourless["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs,
        env=kept | colourless | environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    sent = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 1 << 16):
            sent += part
    os.close(ours)
    return Terminal(process.wait(), sent)
