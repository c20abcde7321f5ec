"""What people see of an analysis: screens of a terminal, reports and figures; nothing is computed.

The modules from numbers up: `escape` and `tabular` (a frame in four formats), `views` (frames of
strings), `wording` (sentences), `screen`, `charts`, `browser`, `page` and `report`.
"""

from __future__ import annotations

from typing import Any

from aurac.show.charts import plot
from aurac.show.screen import screen
from aurac.show.terminal import terminal_table

__all__ = ["plot", "screen", "terminal_table", "write_report"]


def write_report(*args: Any, **words: Any) -> Any:
    """`aurac.show.report.write_report`, or the old one for its callers, which are going."""
    from aurac.analysis import Analysis
    from aurac.show import report, write

    new = (len(args) > 1 and isinstance(args[1], Analysis)) or "analysis" in words
    return (report if new else write).write_report(*args, **words)
