"""Pairs over few clusters of documents and few seeds, with a mean difference of 0.

The clusters' differences are normal, or few of them lose much and the others gain a little.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from aurac.stats import difference
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 10  # documents in a cluster
SEED_SD = 0.02
# Share of the clusters that lose, and what they lose; 0: normal differences.
KINDS = {"vary by .1": (0, 0), "one in five loses .4": (0.2, 0.4), "one in ten .45": (0.1, 0.45)}


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic: how often p is at most .05, and .0083."""
    for clusters, seeds, (name, (bad, loss)) in product((8, 20), (1, 3, 5), KINDS.items()):
        labels, p = np.repeat(np.arange(clusters), SIZE), np.empty(repetitions)
        for i in range(repetitions):
            if bad:
                gap = np.where(rng.random(clusters) < bad, -loss, loss * bad / (1 - bad))
            else:
                gap = 0.1 * rng.standard_normal(clusters)
            shift = SEED_SD * rng.standard_normal((2, seeds, 1)) * (seeds > 1)
            solved = np.clip(0.5 + shift, 0, 1) * np.ones(labels.size)
            a = rng.binomial(4, solved[0]) / 4
            b = rng.binomial(4, np.clip(solved[1] + gap[labels], 0, 1)) / 4
            p[i] = difference(a, b, clusters=labels).p
        setting = f"{clusters} clusters, {seeds} seeds, {name}"
        note = f"p ≤ .0083: {np.mean(p <= 0.0083):.3f}"
        yield Row("few clusters, p ≤ .05 without a difference", setting, labels.size,
                  float(np.mean(p <= 0.05)), repetitions, "≤ .055", note)  # fmt: skip
