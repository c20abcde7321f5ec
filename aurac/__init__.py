"""Rank-accuracy evaluation of low-rank adapters: how good is an adapter at every rank?

The public names are loaded on first use, so that ``import aurac`` and `score` need nothing heavier
than numpy, and a notebook that only integrates numbers never waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurac.adapters.export import save_adapter
    from aurac.adapters.formats import load_adapter
    from aurac.adapters.methods import Method, Pass, TrainingSetup, register_method
    from aurac.adapters.truncate import truncate
    from aurac.analysis.equivalence import equivalent, non_inferior
    from aurac.analysis.pilot import plan
    from aurac.analysis.score import Score, score
    from aurac.curves.area import quadrature_weights
    from aurac.curves.curve import Curve
    from aurac.notebook import Run, load_run
    from aurac.runs.compare import compare
    from aurac.stats.mean import Estimate
    from aurac.training import train

__all__ = [
    "Curve",
    "Estimate",
    "Method",
    "Pass",
    "Run",
    "Score",
    "TrainingSetup",
    "__version__",
    "compare",
    "equivalent",
    "load_adapter",
    "load_run",
    "non_inferior",
    "plan",
    "quadrature_weights",
    "register_method",
    "save_adapter",
    "score",
    "train",
    "truncate",
]

_HOME = {
    "Curve": "aurac.curves.curve",
    "Estimate": "aurac.stats.mean",
    "Method": "aurac.adapters.methods",
    "Pass": "aurac.adapters.methods",
    "Run": "aurac.notebook",
    "Score": "aurac.analysis.score",
    "TrainingSetup": "aurac.adapters.methods",
    "compare": "aurac.runs.compare",
    "equivalent": "aurac.analysis.equivalence",
    "load_adapter": "aurac.adapters.formats",
    "load_run": "aurac.notebook",
    "non_inferior": "aurac.analysis.equivalence",
    "plan": "aurac.analysis.pilot",
    "quadrature_weights": "aurac.curves.area",
    "register_method": "aurac.adapters.methods",
    "save_adapter": "aurac.adapters.export",
    "score": "aurac.analysis.score",
    "train": "aurac.training",
    "truncate": "aurac.adapters.truncate",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in, the first time it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("aurac")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
