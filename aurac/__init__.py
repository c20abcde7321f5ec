"""Rank-accuracy evaluation of low-rank adapters: how good is an adapter at every rank?

The public names are loaded on first use, so that ``import aurac`` and `score` need nothing heavier
than numpy, and a notebook that only integrates numbers never waits for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from aurac.adapters.export import save_adapter, truncate
    from aurac.adapters.formats import load_adapter
    from aurac.adapters.methods import Method, Pass, TrainingSetup, register_method
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

_public, _names, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curves.curve": ["Curve"],
        "stats.mean": ["Estimate"],
        "adapters.methods": ["Method", "Pass", "TrainingSetup", "register_method"],
        "notebook": ["Run", "load_run"],
        "analysis.score": ["Score", "score"],
        "runs.compare": ["compare"],
        "analysis.equivalence": ["equivalent", "non_inferior"],
        "adapters.formats": ["load_adapter"],
        "analysis.pilot": ["plan"],
        "curves.area": ["quadrature_weights"],
        "adapters.export": ["save_adapter", "truncate"],
        "training": ["train"],
    },
)


def __getattr__(name: str) -> Any:
    """The version, or a public name, imported from its module when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("aurac")
    return _public(name)


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
