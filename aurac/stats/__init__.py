"""What a rank-accuracy curve may claim: one file per question, arithmetic only.

Everything takes plain arrays, ``(n,)`` scores per document or ``(S, n)`` for S training seeds, and
`Curve` where ranks matter. Randomness comes only through a required `numpy.random.Generator`.
"""

from __future__ import annotations

from aurac.stats.aggregate import aggregate, task_weights
from aurac.stats.assumed import Spread, spread_of_flips, spread_of_pilot
from aurac.stats.bands import Bands, bands
from aurac.stats.best import Best, MarginTest, best, margin_test
from aurac.stats.clusters import clustered, design_effect, stratified
from aurac.stats.intervals import interval, score_interval, standard_error
from aurac.stats.multiplicity import holm
from aurac.stats.noninferiority import Certificate, Step, certify
from aurac.stats.paired import (
    Difference,
    PairedCurves,
    detectable,
    difference,
    paired_curves,
)
from aurac.stats.power import Plan, plan
from aurac.stats.seeds import Components, components, over_seeds

__all__ = [
    "Bands",
    "Best",
    "Certificate",
    "Components",
    "Difference",
    "MarginTest",
    "PairedCurves",
    "Plan",
    "Spread",
    "Step",
    "aggregate",
    "bands",
    "best",
    "certify",
    "clustered",
    "components",
    "design_effect",
    "detectable",
    "difference",
    "holm",
    "interval",
    "margin_test",
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
