"""Documents crossed with training seeds: coverage, and the tail in which Holm works."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from aurac.stats import difference, over_seeds
from benchmarks.calibration.processes import MIDDLE, SIZES, WEIGHTS, Logistic, group_of_seeds
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNTS = (2, 3, 5)
# Of the seeds' shifts in logits; .6 logits are .1 of AURAC in the middle.
SPREADS = {"0": (0.0, 0.0), ".03": (0.2, 0.2), ".1": (0.6, 0.6), ".1 and 0": (0.6, 0.0)}


def coverage(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of documents × seeds, for a mean and a difference (latent probit)."""
    for spread in (0.0, 0.05, 0.15):
        wide = np.sqrt(1 + spread**2)
        means = [float(WEIGHTS @ ndtr((ndtri(MIDDLE) + s) / wide)) for s in (0.0, 0.1)]
        for count in COUNTS:
            for n in SIZES:
                hits = np.zeros(2)
                for _ in range(repetitions):
                    hard = rng.standard_normal(n)
                    a = group_of_seeds(rng, hard, count, 0.0, spread)
                    b = group_of_seeds(rng, hard, count, 0.1, spread)
                    one, two = over_seeds(a), difference(a, b).estimate
                    hits[0] += one.low <= means[0] <= one.high
                    hits[1] += two.low <= means[1] - means[0] <= two.high
                name = f"{count} seeds, seed sd {spread * 0.38:.3f}"
                for claim, hit in zip(("one group", "two groups"), hits, strict=True):
                    what = f"seeds × documents, {claim}, covers"
                    yield Row(what, name, n, hit / repetitions, repetitions, "≥ .935")


def tails(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Two equal groups: how often p is at most .05 and .003 (logistic items, interaction .5)."""
    for count in COUNTS:
        for name, (first, second) in SPREADS.items():
            for n in SIZES[1:]:
                model = Logistic(between=0.5)
                p = np.empty(repetitions)
                for i in range(repetitions):
                    ease = rng.standard_normal(n)
                    a = replace(model, seed=first).group(rng, ease, count)
                    b = replace(model, seed=second).group(rng, ease, count)
                    p[i] = difference(a, b).p
                for alpha in (0.05, 0.003):
                    what = f"two groups, p ≤ {alpha:g} without a difference"
                    setting = f"{count} seeds, seed sd {name}"
                    rate = float(np.mean(p <= alpha))
                    yield Row(what, setting, n, rate, repetitions, f"≤ {alpha:g}")


def power(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """How often a difference of about .1 is found, as it is (logistic items)."""
    for count in (1, *COUNTS):
        for spread in (0.0, 0.2):
            model = Logistic(between=0.5, seed=spread if count > 1 else 0.0)
            better = replace(model, ability=model.ability + 0.6)
            hits = 0
            for _ in range(repetitions):
                ease = rng.standard_normal(500)
                found = difference(model.group(rng, ease, count), better.group(rng, ease, count))
                hits += found.p <= 0.05
            setting = f"{count} seeds, seed sd {0.0 if count == 1 else spread / 6:.2f}"
            yield Row(
                "power at a difference of .1", setting, 500, hits / repetitions, repetitions, "–"
            )


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from coverage(rng, repetitions)
    yield from tails(rng, repetitions)
    yield from power(rng, repetitions)
