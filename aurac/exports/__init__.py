"""A run in the layout of other tools; numbers in, files out, no model."""

from __future__ import annotations

from aurac.exports.lm_eval import export_lm_eval

__all__ = ["export_lm_eval"]
