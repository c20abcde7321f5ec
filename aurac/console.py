"""The two terminals: results go to standard output, progress and messages to standard error."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(maxsize=1)
def stderr_console() -> Console:
    """For progress, warnings and errors (plain when it is not a terminal; honours NO_COLOR)."""
    from rich.console import Console

    return Console(stderr=True)


@lru_cache(maxsize=1)
def stdout_console() -> Console:
    """For results."""
    from rich.console import Console

    return Console()
