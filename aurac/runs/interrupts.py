"""SIGINT and SIGTERM: the first ends the run at the next pass of the model, a second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import Self

EXIT_INTERRUPTED = 130
_SHOW_CURSOR = "\033[?25h"
_CLEAR_LINE = "\r\033[2K"  # of a progress bar
_SOON = "aurac: interrupted: stops after this pass of the model (once more: at once)"
_AT_ONCE = "aurac: stopped at once; finished cells are kept, the same command goes on after them"


class Interrupted(KeyboardInterrupt):
    """The user or the system asked the run to end; what is done is kept."""


def _write(text: str, *, ends: bool = False) -> None:
    """Write a line from within a signal handler, past all buffers and locks."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stderr.fileno()
        if os.isatty(descriptor):
            text = f"{_CLEAR_LINE}{_SHOW_CURSOR if ends else ''}{text}"
        os.write(descriptor, f"{text}\n".encode())


class Interrupts:
    """Turns signals into an orderly end; a context, and without effect beside the main thread.

    A signal raises at once, but within `working()` where `check()` is called; a second one ends the
    process. Standard error tells of both.
    """

    def __init__(self) -> None:
        self.requested = False
        self._working = False
        self._say: Callable[[str], None] = _write
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.renew()
        return self

    def renew(self) -> None:
        """Take the signals (back) from whoever handles them now."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._on_signal)
                self._before.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, *_: object) -> None:
        if self.requested:
            _write(_AT_ONCE, ends=True)
            os._exit(EXIT_INTERRUPTED)
        self.requested = True
        if not self._working:
            raise Interrupted
        self._say(_SOON)

    @contextlib.contextmanager
    def saying(self, say: Callable[[str], None]) -> Iterator[None]:
        """Within this block the first signal is told by `say`, which must not write by itself."""
        self._say = say
        try:
            yield
        finally:
            self._say = _write

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Within this block signals wait for `check()`."""
        self._working = True
        try:
            yield
        finally:
            self._working = False

    def check(self) -> None:
        """A safe place to stop: raises Interrupted if a signal has come."""
        if self.requested:
            raise Interrupted
