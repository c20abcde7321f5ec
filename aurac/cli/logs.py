"""Where messages go: aurac's warnings to the screen, each once; those of libraries to a log."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from aurac.models import cache_root

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


class Line(logging.Formatter):
    """`aurac: warning: …`, one line without a traceback, which only the log keeps."""

    def format(self, record: logging.LogRecord) -> str:
        """Its text."""
        return f"aurac: {record.levelname.lower()}: {record.getMessage()}"


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is now: above a progress bar while one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class Once(Screen):
    """A screen that shows each warning a single time."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record unless its text was written before."""
        text = record.getMessage()
        if text not in self._seen:
            self._seen.add(text)
            super().emit(record)


class LogFile(RotatingFileHandler):
    """Appends to a file that is made by the first message; a disk that refuses is no error."""

    def __init__(self) -> None:
        super().__init__(log_path(), maxBytes=_LARGEST, backupCount=1, delay=True, encoding="utf-8")

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """A full or read-only disk must not disturb the command."""


def log_path() -> Path:
    """The log of all commands: `AURAC_CACHE/logs/aurac.log`."""
    return cache_root() / "logs" / "aurac.log"


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
    dated = logging.Formatter(f"%(asctime)s {_VERBOSE}")
    _add(root, LogFile(), dated)
    root.setLevel(logging.WARNING)
    for logger in libraries:
        vars(logger).pop("addHandler", None)
        logger.handlers.clear()
        _add(logger, LogFile(), dated)
        logger.propagate = False
        logger.addHandler = _refuse  # type: ignore[method-assign]
    _add(ours, Once(), Line())
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _refuse(hdlr: logging.Handler) -> None:
    """In the place of `addHandler`: a library adds a stream when it is imported."""


def _add(logger: logging.Logger, handler: logging.Handler, layout: logging.Formatter) -> None:
    handler.setFormatter(layout)
    handler.of_aurac = True  # type: ignore[attr-defined]
    logger.addHandler(handler)
