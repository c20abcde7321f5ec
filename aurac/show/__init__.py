"""What people see of an analysis: screens of a terminal, reports and figures; nothing is computed.

The modules from numbers up: `escape` and `tabular` (a table in four formats), `views` (tables of
texts), `wording` (sentences), `charts`, `browser`, `screen`, `page` and `report`.
"""

from aurac.show.report import write_report
from aurac.show.screen import screen

__all__ = ["screen", "write_report"]
