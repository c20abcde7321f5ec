"""What a rank-accuracy curve may claim: one file per question, arithmetic only.

Everything takes plain arrays, ``(n,)`` scores per document or ``(S, n)`` for S training seeds, and
`Curve` where ranks matter. Randomness comes only through a `numpy.random.Generator`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "intervals": ["interval"],
        "mean": ["Layout"],
        "multiplicity": ["aggregate", "holm", "task_weights"],
        "paired": ["Difference", "detectable", "difference"],
        "power": ["Plan", "plan"],
        "seeds": ["Components", "components", "over_seeds"],
        "spread": ["Spread", "spread_of_flips", "spread_of_pilot"],
    },
)
