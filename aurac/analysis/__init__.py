"""What curves may claim: `analyse` answers every question of a report, the others one each.

Each takes a `Curve`, or what `as_curve` accepts; several are training seeds of one recipe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.analysis.choice import non_inferior_rank
    from aurac.analysis.choice_rows import Choice, Configuration, RankRow, RankTest
    from aurac.analysis.comparisons import paired_curves
    from aurac.analysis.equivalence import margin_test
    from aurac.analysis.rows import MarginTest
    from aurac.analysis.score import Bands, bands
    from aurac.analysis.whole import analyse

__all__ = [
    "Bands",
    "Choice",
    "Configuration",
    "MarginTest",
    "RankRow",
    "RankTest",
    "analyse",
    "bands",
    "margin_test",
    "non_inferior_rank",
    "paired_curves",
]

_MODULES = {
    "whole": "analyse",
    "choice": "non_inferior_rank",
    "choice_rows": "Choice Configuration RankRow RankTest",
    "equivalence": "margin_test",
    "rows": "MarginTest",
    "comparisons": "paired_curves",
    "score": "Bands bands",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Load a module when one of its names is used: `aurac.score` needs few of them."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"aurac.analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
