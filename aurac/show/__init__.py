"""What people see of an analysis: screens of a terminal, reports and figures; nothing is computed.

The modules from numbers up: `escape` and `tabular` (a frame in four formats), `views` (frames of
strings), `wording` (sentences), `screen`, `charts`, `browser`, `page` and `report`.
"""

from aurac.show.charts import plot
from aurac.show.report import write_report
from aurac.show.screen import screen

__all__ = ["plot", "screen", "write_report"]
