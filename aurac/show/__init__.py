"""Reports: what a run measured, as Markdown, HTML, LaTeX, CSV, figures and a terminal table.

Everything here works from `results.json` and the stored cells alone; torch is never loaded, and
matplotlib only when a figure is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.show.terminal import terminal_table
    from aurac.show.write import write_report

__all__ = ["terminal_table", "write_report"]

_HOME = {"terminal_table": "terminal", "write_report": "write"}


def __getattr__(name: str) -> object:
    """Load a module when its name is used: a table of a command needs nothing of a report."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"aurac.show.{_HOME[name]}"), name)
