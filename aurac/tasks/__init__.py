"""Tasks: those of lm-eval and the bundled ones, as requests to a model and scored answers."""

from __future__ import annotations

from aurac.tasks.bundled import BUNDLED, documents, include_path, load_split

__all__ = ["BUNDLED", "QUICK_DOCUMENTS", "documents", "include_path", "load_split"]

QUICK_DOCUMENTS = 100
"""Test examples that `aurac compare` takes of a bundled task unless it is told how many.

A first comparison then takes minutes on a laptop. The examples of a split lie in random order, so
the first ones are a random sample.
"""
