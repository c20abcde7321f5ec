"""Bundled lm-eval tasks: YAML files, and the generator of their documents."""

from __future__ import annotations

from pathlib import Path

from aurac.tasks.store import BUNDLED, documents, load_split

__all__ = ["BUNDLED", "documents", "include_path", "load_split"]


def include_path() -> Path:
    """The folder to give to lm-eval (`TaskManager(include_path=...)`, `--include_path`)."""
    return Path(__file__).parent / "lm_eval"
