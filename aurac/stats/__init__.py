"""What a rank-accuracy curve may claim: one file per question, arithmetic only.

Everything takes plain arrays, ``(n,)`` scores per document or ``(S, n)`` for S training seeds, and
`Curve` where ranks matter. Randomness comes only through a `numpy.random.Generator`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.stats.intervals import interval
    from aurac.stats.mean import Layout
    from aurac.stats.multiplicity import aggregate, holm, task_weights
    from aurac.stats.paired import Difference, detectable, difference
    from aurac.stats.power import Plan, plan
    from aurac.stats.seeds import Components, components, over_seeds
    from aurac.stats.spread import Spread, spread_of_flips, spread_of_pilot

__all__ = [
    "Components",
    "Difference",
    "Layout",
    "Plan",
    "Spread",
    "aggregate",
    "components",
    "detectable",
    "difference",
    "holm",
    "interval",
    "over_seeds",
    "plan",
    "spread_of_flips",
    "spread_of_pilot",
    "task_weights",
]

_MODULES = {
    "intervals": "interval",
    "mean": "Layout",
    "multiplicity": "aggregate holm task_weights",
    "paired": "Difference detectable difference",
    "power": "Plan plan",
    "seeds": "Components components over_seeds",
    "spread": "Spread spread_of_flips spread_of_pilot",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Load a module when one of its names is used: `aurac.score` needs few of them."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"aurac.stats.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
