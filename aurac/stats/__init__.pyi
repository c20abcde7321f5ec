from .intervals import interval
from .mean import Layout
from .multiplicity import aggregate, holm, task_weights
from .paired import Difference, detectable, difference
from .seeds import Components, components, over_seeds

__all__ = [
    "Components",
    "Difference",
    "Layout",
    "aggregate",
    "components",
    "detectable",
    "difference",
    "holm",
    "interval",
    "over_seeds",
    "task_weights",
]
