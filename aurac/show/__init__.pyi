from .terminal import terminal_table
from .write import write_report

__all__ = ["terminal_table", "write_report"]
