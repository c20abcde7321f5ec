"""One adapter: intervals, clusters, strata and bands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from aurac.analysis import bands
from aurac.curves.curve import Curve
from aurac.stats import interval
from benchmarks.calibration.processes import MIDDLE, RANKS, SHARED, SIZES, WEIGHTS, areas, outcomes
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def one_adapter(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of `interval` for one adapter, at accuracies near 0, in the middle, near 1."""
    settings = {
        "near 0 (.005 to .03)": np.linspace(0.005, 0.03, 9),
        "low (.02 to .12)": np.linspace(0.02, 0.12, 9),
        "middle (.30 to .60)": MIDDLE,
        "near 1 (.97 to .995)": np.linspace(0.97, 0.995, 9),
    }
    for name, accuracy in settings.items():
        truth = float(WEIGHTS @ accuracy)
        for n in SIZES:
            used: dict[str, int] = {}

            def once(
                n: int = n,
                accuracy: NDArray[np.float64] = accuracy,
                truth: float = truth,
                used: dict[str, int] = used,
            ) -> bool:
                found = interval(areas(rng, n, accuracy))
                word = re.split(" with| at|,| [(]", found.method)[0]
                used[word] = used.get(word, 0) + 1
                return found.low <= truth <= found.high

            covered = share(repetitions, once)
            words = ", ".join(f"{w} {c / repetitions:.0%}" for w, c in used.items())
            yield Row("one adapter, interval covers", name, n, covered, repetitions, ".95", words)


def clusters(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage with documents that share passages, and without saying so."""
    truth = float(WEIGHTS @ MIDDLE)
    for passages, size in ((8, 25), (40, 5), (300, 4)):
        labels = np.repeat(np.arange(passages), size)
        n = labels.size
        hits = np.zeros(2)
        for _ in range(repetitions):
            passage = rng.standard_normal(passages)[labels]
            hard = np.sqrt(0.5) * passage + np.sqrt(0.5) * rng.standard_normal(n)
            scores = areas(rng, n, MIDDLE, hard=hard)
            for i, given in enumerate((labels, None)):
                found = interval(scores, clusters=given)
                hits[i] += found.low <= truth <= found.high
        name = f"{passages} passages of {size}"
        yield Row(
            "clusters, CR2 interval covers", name, n, hits[0] / repetitions, repetitions, ".95"
        )
        yield Row(
            "clusters ignored (not offered)",
            name,
            n,
            hits[1] / repetitions,
            repetitions,
            "–",
            "what iid formulas would do",
        )


def strata(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage over another draw of documents within the same fixed subjects."""
    subjects, size = 20, 10
    labels = np.repeat(np.arange(subjects), size)
    level = np.random.default_rng(7).normal(0, 1, subjects)[labels]
    truth = float(np.mean(WEIGHTS @ ndtr(ndtri(MIDDLE)[:, None] + level)))

    def once() -> bool:
        hard = level / np.sqrt(SHARED) + rng.standard_normal(labels.size)
        found = interval(areas(rng, labels.size, MIDDLE, hard=hard), strata=labels)
        return found.low <= truth <= found.high

    yield Row(
        "strata, interval covers",
        "20 fixed subjects of 10",
        labels.size,
        share(repetitions, once),
        repetitions,
        ".95",
    )


def curve_bands(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Simultaneous bands hold the whole curve; pointwise bands hold each rank."""
    repetitions //= 2  # the slowest of all
    for n in SIZES:
        hits = np.zeros(2)
        for _ in range(repetitions):
            curve = Curve.from_outcomes(RANKS, outcomes(rng, n, MIDDLE))
            for i, kind in enumerate(("simultaneous", "pointwise")):
                found = bands(curve, rng=rng, kind=kind)
                inside = (np.array(found.low) <= MIDDLE) & (np.array(found.high) >= MIDDLE)
                hits[i] += inside.all() if kind == "simultaneous" else inside.mean()
        yield Row(
            "simultaneous band holds the whole curve",
            "middle",
            n,
            hits[0] / repetitions,
            repetitions,
            ".95",
        )
        yield Row(
            "pointwise band holds a rank", "middle", n, hits[1] / repetitions, repetitions, ".95"
        )


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from one_adapter(rng, repetitions)
    yield from clusters(rng, repetitions)
    yield from strata(rng, repetitions)
    yield from curve_bands(rng, repetitions)
