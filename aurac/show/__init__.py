"""Reports: what a run measured, as Markdown, HTML, LaTeX, CSV, figures and a terminal table.

Everything here works from `results.json` and the stored cells alone; torch is never loaded, and
matplotlib only when a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from aurac.show.terminal import terminal_table
    from aurac.show.write import write_report

__all__ = ["terminal_table", "write_report"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"terminal": ["terminal_table"], "write": ["write_report"]}
)
