"""The two terminals: results go to standard output, progress and messages to standard error."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 200  # a pipe has no width; a table takes what it needs


@lru_cache(maxsize=1)
def stderr_console() -> Console:
    """For progress, warnings and errors (plain when it is not a terminal; honours NO_COLOR)."""
    from rich.console import Console

    return Console(stderr=True)


@lru_cache(maxsize=1)
def stdout_console() -> Console:
    """For results: as wide as the terminal; on a pipe as wide as `COLUMNS` says, else 200."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    columns = os.environ.get("COLUMNS", "")
    return Console(width=int(columns) if columns.isdecimal() and int(columns) else _WIDE)
