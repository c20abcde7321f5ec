"""Tasks: those of lm-eval and the bundled ones, as requests to a model and scored answers."""

from __future__ import annotations

from aurac.tasks.bundled import BUNDLED, documents, include_path, load_split

__all__ = ["BUNDLED", "documents", "include_path", "load_split"]
