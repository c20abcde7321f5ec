"""What a rank-accuracy curve may claim: one file per question, arithmetic only.

Everything takes plain arrays, ``(n,)`` scores per document or ``(S, n)`` for S training seeds, and
`Curve` where ranks matter. Randomness comes only through a required `numpy.random.Generator`.
"""

from __future__ import annotations

from aurac.uncertainty.aggregate import aggregate, task_weights
from aurac.uncertainty.bands import Bands, bands
from aurac.uncertainty.clusters import clustered, design_effect, stratified
from aurac.uncertainty.holm import holm
from aurac.uncertainty.intervals import interval, score_interval, standard_error
from aurac.uncertainty.pairs import (
    Difference,
    PairedCurves,
    detectable,
    difference,
    paired_curves,
)
from aurac.uncertainty.planning import Plan, Spread, plan, spread_of_flips, spread_of_pilot
from aurac.uncertainty.seeds import Components, components, over_seeds
from aurac.uncertainty.selection import Certificate, Step, certify

__all__ = [
    "Bands",
    "Certificate",
    "Components",
    "Difference",
    "PairedCurves",
    "Plan",
    "Spread",
    "Step",
    "aggregate",
    "bands",
    "certify",
    "clustered",
    "components",
    "design_effect",
    "detectable",
    "difference",
    "holm",
    "interval",
    "over_seeds",
    "paired_curves",
    "plan",
    "score_interval",
    "spread_of_flips",
    "spread_of_pilot",
    "standard_error",
    "stratified",
    "task_weights",
]
