"""Two adapters with one seed each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.stats import difference
from aurac.stats.mean import Layout
from aurac.stats.paired import compare_arms
from benchmarks.calibration.processes import MIDDLE, SIZES, WEIGHTS, areas
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def pairs(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of the paired difference, and the rate of false positives without one."""
    settings = {
        "middle, difference .05": (MIDDLE, MIDDLE + 0.05),
        "near 0, difference .01": (np.full(9, 0.01), np.full(9, 0.02)),
        "near 1, difference .01": (np.full(9, 0.98), np.full(9, 0.99)),
    }
    for name, (first, second) in settings.items():
        truth = float(WEIGHTS @ (second - first))
        for n in SIZES:

            def once(
                n: int = n,
                first: NDArray[np.float64] = first,
                second: NDArray[np.float64] = second,
                truth: float = truth,
            ) -> bool:
                hard = rng.standard_normal(n)
                found = difference(
                    areas(rng, n, first, hard=hard), areas(rng, n, second, hard=hard), rng=rng
                ).estimate
                return found.low <= truth <= found.high

            yield Row(
                "pair, interval covers", name, n, share(repetitions, once), repetitions, ".95"
            )
    for name, accuracy in {"middle": MIDDLE, "near 0 (.01)": np.full(9, 0.01)}.items():
        for n in SIZES:

            def wrong(n: int = n, accuracy: NDArray[np.float64] = accuracy) -> bool:
                hard = rng.standard_normal(n)
                found = difference(
                    areas(rng, n, accuracy, hard=hard), areas(rng, n, accuracy, hard=hard), rng=rng
                )
                return found.p <= 0.05

            yield Row(
                "pair, p ≤ .05 without a difference",
                name,
                n,
                share(repetitions, wrong),
                repetitions,
                "≤ .05",
            )


def detectable_differences(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Power at a true difference equal to the MDE that is reported there."""
    for n in SIZES:
        delta = 0.05
        for _ in range(6):  # the spread depends on the difference a little: find the fixed point
            reported = [_pair(rng, n, delta).mde for _ in range(100)]
            delta = float(np.mean(reported))
        found = [_pair(rng, n, delta) for _ in range(repetitions)]
        power = float(np.mean([f.p <= 0.05 for f in found]))
        note = f"MDE {delta:.4f}"
        yield Row("power at the reported MDE", "middle", n, power, repetitions, ".80 ± .04", note)


def _pair(rng: np.random.Generator, n: int, delta: float) -> object:
    hard = rng.standard_normal(n)
    a = areas(rng, n, MIDDLE, hard=hard)
    b = areas(rng, n, MIDDLE + delta, hard=hard)
    return compare_arms(a[None], b[None], Layout(n), rng=rng, level=0.95)


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from pairs(rng, repetitions)
    yield from detectable_differences(rng, repetitions)
