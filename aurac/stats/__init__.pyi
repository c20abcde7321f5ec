from .intervals import interval
from .mean import Layout
from .multiplicity import aggregate, holm, task_weights
from .paired import Difference, detectable, difference
from .power import Plan, plan
from .seeds import Components, components, over_seeds
from .spread import Spread, spread_of_flips, spread_of_pilot

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
