"""One reader per checkpoint format."""

from __future__ import annotations

from aurac.adapters.formats.load import load_adapter

__all__ = ["load_adapter"]
