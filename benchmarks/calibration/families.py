"""Many comparisons at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.stats import difference
from aurac.stats import multiplicity as holm
from benchmarks.calibration.processes import MIDDLE, areas
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np


def families(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Any false claim among the ten pairs of five adapters that are the same."""
    n = 200

    def once() -> bool:
        hard = rng.standard_normal(n)
        arms = [areas(rng, n, MIDDLE, hard=hard) for _ in range(5)]
        p = [difference(arms[i], arms[j], rng=rng).p for i in range(5) for j in range(i)]
        return min(holm(p)) <= 0.05

    yield Row(
        "any of 10 pairs, Holm p ≤ .05",
        "five equal adapters",
        n,
        share(repetitions, once),
        repetitions,
        "≤ .05",
    )


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from families(rng, repetitions)
