"""Tasks, requests and the engine that answers them.

The names are loaded when first used: the border to lm-eval (:mod:`aurac.evaluation.harness`) and
the engine bring torch along.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurac.evaluation.built import BuiltTask, CellOutcome
    from aurac.evaluation.harness import build_tasks
    from aurac.evaluation.metrics import parse_metrics
    from aurac.evaluation.options import EngineOptions
    from aurac.evaluation.requests import CellError

__all__ = [
    "BuiltTask",
    "CellError",
    "CellOutcome",
    "EngineOptions",
    "build_tasks",
    "parse_metrics",
]

_HOMES = {
    "BuiltTask": "built",
    "CellError": "requests",
    "CellOutcome": "built",
    "EngineOptions": "options",
    "build_tasks": "harness",
    "parse_metrics": "metrics",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
