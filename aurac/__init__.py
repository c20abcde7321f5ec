"""Rank-accuracy evaluation of low-rank adapters: how good is an adapter at every rank?"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurac.adapters.export import save_adapter, truncate
    from aurac.adapters.formats import load_adapter
    from aurac.adapters.inspect import inspect
    from aurac.analysis.frames import Analysis, analyse
    from aurac.analysis.score import Score, score
    from aurac.curves.curve import Curve
    from aurac.curves.question import Question
    from aurac.errors import AuracError
    from aurac.notebook import Run, load_run
    from aurac.readers import read_curves
    from aurac.runs.compare import compare
    from aurac.training.job import train
    from aurac.training.nested import nested
    from aurac.training.rank_curve import RankCurve
    from aurac.training.recipe import Recipe

_PLACES = {
    "Analysis": "analysis.frames",
    "AuracError": "errors",
    "Curve": "curves.curve",
    "Question": "curves.question",
    "RankCurve": "training.rank_curve",
    "Recipe": "training.recipe",
    "Run": "notebook",
    "Score": "analysis.score",
    "analyse": "analysis.frames",
    "compare": "runs.compare",
    "inspect": "adapters.inspect",
    "load_adapter": "adapters.formats",
    "load_run": "notebook",
    "nested": "training.nested",
    "read_curves": "readers",
    "save_adapter": "adapters.export",
    "score": "analysis.score",
    "train": "training.job",
    "truncate": "adapters.export",
}
__all__ = [
    "Analysis", "AuracError", "Curve", "Question", "RankCurve", "Recipe", "Run", "Score", "analyse",
    "compare", "inspect", "load_adapter", "load_run", "nested", "read_curves", "save_adapter",
    "score", "train", "truncate",
]  # fmt: skip
__version__ = version("aurac")


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is first asked for, so that numbers need no torch."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
