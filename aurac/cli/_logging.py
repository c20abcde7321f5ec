"""Where messages go: aurac's warnings to the screen, each once; those of libraries to a log."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from aurac.models import cache_root

LOG_FILE = "aurac.log"
_LARGEST = 5_000_000  # bytes, after which the log begins again
_VERBOSE = "%(levelname)s %(name)s: %(message)s"
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DATASETS_VERBOSITY": "error",
}
_OWN_HANDLERS = ("transformers", "datasets", "huggingface_hub")
"""Libraries whose loggers print by themselves and pass nothing on to the root logger."""


class Once(logging.Filter):
    """Lets each message through a single time."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this text is new."""
        text = record.getMessage()
        if text in self._seen:
            return False
        self._seen.add(text)
        return True


class Line(logging.Formatter):
    """`aurac: warning: …`, one line without a traceback, which only the log keeps."""

    def format(self, record: logging.LogRecord) -> str:
        return f"aurac: {record.levelname.lower()}: {record.getMessage()}"


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is now: above a progress bar while one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class LogFile(RotatingFileHandler):
    """Appends to a file that is made by the first message; a disk that refuses is no error."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LARGEST, backupCount=1, delay=True, encoding="utf-8")

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """A full or read-only disk must not disturb the command."""


def log_path() -> Path:
    """The log of all commands: `AURAC_CACHE/logs/aurac.log`."""
    return cache_root() / "logs" / LOG_FILE


def quiet_libraries(*, verbose: bool) -> None:
    """Bars, advice and warnings of libraries go to the log; with `verbose` to the terminal."""
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    ours = logging.getLogger("aurac")
    libraries = [logging.getLogger(name) for name in _OWN_HANDLERS]
    for logger in (root, ours, *libraries):  # a second command must not print twice
        for handler in [h for h in logger.handlers if getattr(h, "of_aurac", False)]:
            logger.removeHandler(handler)
            handler.close()
    if verbose:
        _add(root, Screen(), logging.Formatter(_VERBOSE))
        root.setLevel(logging.INFO)
        return
    _add(root, LogFile(log_path()), logging.Formatter(f"%(asctime)s {_VERBOSE}"))
    root.setLevel(logging.WARNING)
    for logger in libraries:
        _keep_off_the_screen(logger)
    screen = Screen()
    screen.setLevel(logging.WARNING)
    screen.addFilter(Once())
    _add(ours, screen, Line())
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _keep_off_the_screen(logger: logging.Logger) -> None:
    """Give a library's logger the log file, and refuse the stream that it adds when imported."""
    vars(logger).pop("addHandler", None)
    logger.handlers.clear()
    _add(logger, LogFile(log_path()), logging.Formatter(f"%(asctime)s {_VERBOSE}"))
    logger.propagate = False

    def refuse(handler: logging.Handler) -> None:
        """Nothing else is added."""

    logger.addHandler = refuse  # type: ignore[method-assign, assignment]


def _add(logger: logging.Logger, handler: logging.Handler, layout: logging.Formatter) -> None:
    handler.setFormatter(layout)
    handler.of_aurac = True  # type: ignore[attr-defined]
    logger.addHandler(handler)
