"""Bundled lm-eval tasks: YAML files, and the generator of their documents."""

from __future__ import annotations

from pathlib import Path

from aurac.tasks.store import BUNDLED, documents, load_split

__all__ = ["BUNDLED", "QUICK_DOCUMENTS", "documents", "include_path", "load_split"]

QUICK_DOCUMENTS = 100
"""Test documents that `aurac compare` takes of a bundled task unless it is told how many.

A first comparison then takes minutes on a laptop. The documents of a split lie in random order, so
the first ones are a random sample.
"""


def include_path() -> Path:
    """The folder to give to lm-eval (`TaskManager(include_path=...)`, `--include_path`)."""
    return Path(__file__).parent / "lm_eval"
