"""Two adapters with one seed each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.stats import difference
from aurac.stats.mean import Layout
from aurac.stats.paired import compare
from benchmarks.calibration.processes import MIDDLE, SIZES, WEIGHTS, Logistic, areas
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
                    areas(rng, n, first, hard=hard), areas(rng, n, second, hard=hard)
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
                    areas(rng, n, accuracy, hard=hard), areas(rng, n, accuracy, hard=hard)
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
    return compare(a[None], b[None], Layout(n), level=0.95)


def _gaps(rng: np.random.Generator, n: int) -> dict[str, NDArray[np.float64]]:
    """Differences of mean 0 that are not symmetric."""
    u, w = rng.random(n), rng.random(n)
    noise = np.where(u < 0.6, rng.choice([-0.125, 0.125], size=n), 0.0)
    return {
        "8 % gain 1/16, .5 % lose 1": np.where(u < 0.08, 1 / 16, np.where(u > 0.995, -1.0, 0.0)),
        "32 % gain 1/16, 2 % lose 1": np.where(u < 0.32, 1 / 16, np.where(u > 0.98, -1.0, 0.0)),
        "70 % gain 1/16, 4.4 % lose 1": np.where(
            u < 0.7, 1 / 16, np.where(u > 1 - 0.7 / 16, -1.0, 0.0)
        ),
        "24 % gain 1/4, 6 % lose 1": np.where(u < 0.24, 0.25, np.where(u > 0.94, -1.0, 0.0)),
        "60 % ± 1/8, 16 % gain 1/16, 1 % lose 1": np.clip(
            noise + np.where(w < 0.16, 1 / 16, np.where(w > 0.99, -1.0, 0.0)), -1, 1
        ),
        "gains of beta(.4, 4) less their mean": rng.beta(0.4, 4, n) - 1 / 11,
        "2 % gain 1, 2 % lose 1": np.where(u < 0.02, 1.0, np.where(u > 0.98, -1.0, 0.0)),
    }


def skewed(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """The rate of false positives where gains and losses differ in size and number."""
    for n in (100, 300, 1319):
        wrong: dict[str, int] = {}
        for _ in range(repetitions):
            for name, gap in _gaps(rng, n).items():
                found = difference(np.maximum(-gap, 0.0), np.maximum(gap, 0.0))
                wrong[name] = wrong.get(name, 0) + (found.p <= 0.05)
        for name, count in wrong.items():
            what = "pair, p ≤ .05 without a difference"
            yield Row(what, name, n, count / repetitions, repetitions, "≤ .055")


def _flips_p(rng: np.random.Generator, gap: NDArray[np.float64]) -> float:
    """Two-sided p of the sign-flip test, by 999 draws (not offered: it tests symmetry)."""
    gap = gap[gap != 0]
    signs = rng.integers(0, 2, (999, gap.size), dtype=np.int8) * 2 - 1
    reached = np.abs(signs @ gap) >= abs(gap.sum()) - 1e-9
    return float(1 + reached.sum()) / 1000


def power(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Power of the test beside that of sign flips, at ordinary alternatives."""
    for name, shift, larger in (
        ("middle", 0.0, 0.25),
        ("near 1 (.85)", 2.5, 0.4),
        ("near 0 (.08)", -3.0, 0.5),
        ("near 1 (.95)", 4.0, 0.8),
    ):
        for n in (100, 300, 1319):
            ability = Logistic().ability + shift
            models = (Logistic(ability), Logistic(ability + larger * np.sqrt(300 / n)))
            hits = np.zeros(2)
            for _ in range(repetitions):
                ease = rng.standard_normal(n)
                a, b = (model.group(rng, ease)[0] for model in models)
                hits += [difference(a, b).p <= 0.05, _flips_p(rng, b - a) <= 0.05]
            note = f"sign flips {hits[1] / repetitions:.3f}"
            yield Row("pair, power", name, n, hits[0] / repetitions, repetitions, "–", note)


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from pairs(rng, repetitions)
    yield from detectable_differences(rng, repetitions)
    yield from skewed(rng, repetitions)
    yield from power(rng, repetitions)
