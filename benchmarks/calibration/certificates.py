"""Non-inferior ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.curves.curve import Curve
from aurac.stats import certify
from benchmarks.calibration.processes import RANKS, SHARED, SIZES, outcomes
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def certificates(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """How often a rank that loses at least delta is certified, and what naive rules do."""
    settings = {
        "small ranks lose .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "one step loses .02, then .10": np.array([0.5] * 4 + [0.58] + [0.595] * 3 + [0.6]),
        "near 1, lose .02 exactly": np.where(np.arange(9) < 5, 0.97, 0.99),
        "losses only, .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "losses only, .012 of .012": np.where(np.arange(9) < 5, 0.588, 0.60),
        "slow decline to a loss of .30": np.linspace(0.30, 0.60, 9),
    }
    for name, accuracy in settings.items():
        delta = 0.012 if ".012" in name else 0.02
        shared = 1.0 if "only" in name else SHARED  # then what r solves, the full rank does
        too_much = {
            r for r, y in zip(RANKS, accuracy, strict=True) if accuracy[-1] - y >= delta - 1e-9
        }
        for n in SIZES:
            wrong = np.zeros(3)
            for _ in range(repetitions):
                scores = outcomes(rng, n, accuracy, shared=shared)
                found = certify(Curve.from_outcomes(RANKS, scores), delta=delta)
                wrong[0] += found.rank in too_much
                wrong[1] += _not_significant(scores) in too_much
                means = scores.mean(axis=1)
                close = [r for r, y in zip(RANKS, means, strict=True) if means[-1] - y < delta]
                wrong[2] += min(close) in too_much
            rules = zip(
                ("certificate", "'not significantly different'", "point estimate"),
                wrong,
                strict=True,
            )
            for rule, count in rules:
                target = "≤ .05" if rule == "certificate" else "–"
                yield Row(
                    f"rank chosen wrongly, {rule}",
                    name,
                    n,
                    count / repetitions,
                    repetitions,
                    target,
                )


def _not_significant(scores: NDArray[np.float64]) -> int:
    """The smallest rank whose paired t test against the full rank has p > .05 (not offered)."""
    loss = scores[-1] - scores[:-1]
    se = loss.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    same = np.abs(loss.mean(axis=1)) <= 1.96 * se
    return next((r for r, ok in zip(RANKS, same, strict=False) if ok), RANKS[-1])


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from certificates(rng, repetitions)
