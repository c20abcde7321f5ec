"""Documents crossed with training seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from aurac.stats import difference, over_seeds
from benchmarks.calibration.processes import MIDDLE, SIZES, WEIGHTS, arm_of_seeds
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable


def seeds(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of documents × seeds, for a mean and a difference."""
    for spread in (0.0, 0.05, 0.15):
        wide = np.sqrt(1 + spread**2)
        means = [float(WEIGHTS @ ndtr((ndtri(MIDDLE) + s) / wide)) for s in (0.0, 0.1)]
        for count in (3, 5):
            for n in SIZES:
                hits = np.zeros(2)
                for _ in range(repetitions):
                    hard = rng.standard_normal(n)
                    a = arm_of_seeds(rng, hard, count, 0.0, spread)
                    b = arm_of_seeds(rng, hard, count, 0.1, spread)
                    one = over_seeds(a)
                    two = difference(a, b, rng=rng).estimate
                    hits[0] += one.low <= means[0] <= one.high
                    hits[1] += two.low <= means[1] - means[0] <= two.high
                name = f"{count} seeds, seed sd {spread * 0.38:.3f}"
                for claim, hit in zip(("one arm", "two arms"), hits, strict=True):
                    yield Row(
                        f"seeds × documents, {claim}, covers",
                        name,
                        n,
                        hit / repetitions,
                        repetitions,
                        ".95",
                    )


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from seeds(rng, repetitions)
