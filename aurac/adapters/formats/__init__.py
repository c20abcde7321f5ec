"""One reader per checkpoint format, and the PEFT writer."""

from __future__ import annotations

from aurac.adapters.formats.load import load_adapter
from aurac.adapters.formats.peft_write import save_adapter

__all__ = ["load_adapter", "save_adapter"]
