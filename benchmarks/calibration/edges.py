"""Few events: accuracies near 0 and 1, seeds, aggregates, bands, clusters and strata there.

Items are logistic and much of their noise persists over ranks. Document d is solved at rank k with
probability ``expit(θ_k + ease_d + seed_s + cluster_c(d))``; θ moves by `SLOPE` over the ranks, and
ease is the documents' difficulty with the noise that all ranks share. The truth is integrated on a
grid, and the library is called on every repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

import aurac
from aurac.analysis import bands
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.stats import aggregate, components, interval, over_seeds
from aurac.stats.mean import Layout
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.stats.mean import Estimate

SIZES = (100, 400, 1319)
RANKS = tuple(2**i for i in range(9))
WEIGHTS = quadrature_weights(RANKS, "log2")
SLOPE = 1.0
GRID = np.linspace(-8.0, 8.0, 3201)
DENSITY = np.exp(-(GRID**2) / 2.0) / np.exp(-(GRID**2) / 2.0).sum()
LEAST = ".935 or more"


@dataclass(frozen=True)
class Items:
    """Logistic items with a given AURAC.

    Attributes:
        target: The AURAC, over documents, seeds and clusters.
        ease: Standard deviation of a document's ease and the noise that all its ranks share.
        alike: Part of its variance that is the same under every training seed.
        seed: Standard deviation of the training seeds' shifts, logits.
        cluster: Standard deviation of what the documents of a cluster share, logits.
    """

    target: float
    ease: float = 2.5
    alike: float = 0.4
    seed: float = 0.0
    cluster: float = 0.0

    def accuracy(self, centre: float) -> NDArray[np.float64]:
        """(K,) true accuracies where the middle rank's θ is `centre`."""
        spread = float(np.sqrt(self.ease**2 + self.seed**2 + self.cluster**2))
        theta = centre + np.linspace(-SLOPE / 2, SLOPE / 2, len(RANKS))
        return np.asarray(expit(theta[:, None] + spread * GRID) @ DENSITY)

    @cached_property
    def theta(self) -> NDArray[np.float64]:
        """(K,) θ that give the target."""
        low, high = -40.0, 40.0
        for _ in range(60):
            middle = (low + high) / 2
            less = float(WEIGHTS @ self.accuracy(middle)) < self.target
            low, high = (middle, high) if less else (low, middle)
        return low + np.linspace(-SLOPE / 2, SLOPE / 2, len(RANKS))

    def draw(
        self,
        rng: np.random.Generator,
        n: int,
        *,
        labels: NDArray[np.intp] | None = None,
        shifts: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """(S, K, n) outcomes of the seeds with `shifts` (S,), one by default."""
        moved = np.zeros(1) if shifts is None else shifts
        place = self.ease * np.sqrt(self.alike) * rng.standard_normal(n)
        if labels is not None:
            place = place + self.cluster * rng.standard_normal(labels.max() + 1)[labels]
        own = self.ease * np.sqrt(1 - self.alike) * rng.standard_normal((moved.size, n))
        logit = place + own + moved[:, None]
        chance = expit(self.theta[:, None] + logit[:, None, :])
        return (rng.random(chance.shape) < chance).astype(np.float64)


def areas(outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, n) areas of (S, K, n) outcomes."""
    return np.clip(np.einsum("k,skn->sn", WEIGHTS, outcomes), 0.0, 1.0)


def inside(found: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth; one without ends claims nothing and holds all."""
    low, high = found.low, found.high
    return low is None or high is None or low - 1e-12 <= truth <= high + 1e-12


def one_checkpoint(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """`aurac.score`, whose interval the report prints, too."""
    for n in SIZES:
        for target in (0.01, 0.02, 0.05, 0.15, 0.45, 0.98):
            for ease in (0.5, 2.5, 6.0):
                items = Items(target, ease)
                hits = sum(
                    inside(
                        aurac.score(Curve.from_outcomes(RANKS, items.draw(rng, n)[0])).log2, target
                    )
                    for _ in range(repetitions)
                )
                name = f"{target}, ease sd {ease}"
                yield Row("one checkpoint covers", name, n, hits / repetitions, repetitions, LEAST)


def groups_of_seeds(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """One group of training seeds."""
    for count in (2, 3, 5):
        for spread in (0.0, 0.2, 0.6):
            for target in (0.01, 0.03, 0.45, 0.97):
                items = Items(target, seed=spread)
                for n in SIZES[:2]:
                    hits = 0
                    for _ in range(repetitions):
                        shifts = spread * rng.standard_normal(count)
                        group = areas(items.draw(rng, n, shifts=shifts))
                        hits += inside(over_seeds(group), target)
                    name = f"{target}, {count} seeds, seed sd {spread} logits"
                    yield Row(
                        "group of seeds covers", name, n, hits / repetitions, repetitions, LEAST
                    )


def aggregates(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """The mean of two tasks, with training seeds that are the same on both."""
    for targets in ((0.98, 0.98), (0.02, 0.45), (0.99, 0.9), (0.4, 0.5)):
        for count, spread in ((1, 0.0), (3, 0.0), (3, 0.3)):
            tasks = [Items(target, seed=spread) for target in targets]
            for sizes in ((100, 100), (100, 400)):
                hits = 0
                for _ in range(repetitions):
                    shifts = spread * rng.standard_normal(count)
                    parts = {
                        str(i): components(
                            [areas(task.draw(rng, n, shifts=shifts))], [1], Layout(n)
                        )
                        for i, (task, n) in enumerate(zip(tasks, sizes, strict=True))
                    }
                    found = aggregate(parts, {str(i): n for i, n in enumerate(sizes)})
                    hits += inside(found, sum(targets) / 2)
                name = f"{targets}, {count} seeds, sd {spread}, n {sizes}"
                yield Row(
                    "aggregate covers", name, sum(sizes), hits / repetitions, repetitions, LEAST
                )


def simultaneous_bands(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """All ranks at once."""
    for target in (0.02, 0.05, 0.45, 0.95):
        for ease in (0.5, 2.5):
            items = Items(target, ease)
            truth = expit(items.theta[:, None] + ease * GRID) @ DENSITY
            for n in (50, *SIZES[:2]):
                hits = 0
                for _ in range(repetitions):
                    curve = Curve.from_outcomes(RANKS, items.draw(rng, n)[0])
                    found = bands(curve, rng=rng, kind="simultaneous")
                    low, high = np.array(found.low) - 1e-12, np.array(found.high) + 1e-12
                    hits += bool(np.all((low <= truth) & (truth <= high)))
                name = f"{target}, ease sd {ease}"
                yield Row("band holds the curve", name, n, hits / repetitions, repetitions, LEAST)


def clusters(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Documents in clusters of equal and unequal sizes, few and many, one of them very large."""
    shapes = {
        "20 of 10": np.full(20, 10),
        "20 from 1 to 50": unequal(20, 50),
        "60 from 1 to 30": unequal(60, 30),
        "300 from 1 to 12": unequal(300, 12),
        "12 of 20": np.full(12, 20),
        "11 of 10 and one of 110": np.array([10] * 11 + [110]),
        "7 of 10 and one of 200": np.array([10] * 7 + [200]),
    }
    for name, sizes in shapes.items():
        labels = np.repeat(np.arange(sizes.size), sizes)
        for target in (0.02, 0.1, 0.45):
            for shared in (0.5, 1.0, 2.0):
                items = Items(target, 1.5, cluster=shared)
                hits = 0
                for _ in range(repetitions):
                    scores = areas(items.draw(rng, labels.size, labels=labels))[0]
                    hits += inside(interval(scores, clusters=labels), target)
                setting = f"{name}, {target}, cluster sd {shared} logits"
                share = hits / repetitions
                yield Row("clusters cover", setting, labels.size, share, repetitions, LEAST)


def unequal(count: int, largest: int) -> NDArray[np.intp]:
    """(count,) sizes from 1 to `largest`, each the same factor above the last."""
    return np.maximum(1, np.round(np.geomspace(1, largest, count))).astype(np.intp)


def strata(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Fixed strata of unequal sizes and accuracies, some of one document."""
    shapes = {
        "5 of 2 and one of 100": [2] * 5 + [100],
        "10 of 3 and 2 of 100": [3] * 10 + [100] * 2,
        "20 of 1 and 2 of 50": [1] * 20 + [50] * 2,
        "one of 1 and 4 of 30": [1] + [30] * 4,
        "30 of 2 to 40": [round(x) for x in np.geomspace(2, 40, 30)],
    }
    for name, sizes in shapes.items():
        labels = np.repeat(np.arange(len(sizes)), sizes)
        for ends in ((0.2, 0.8), (0.02, 0.05), (0.9, 0.99)):
            levels = [Items(t, 1.5) for t in np.linspace(*ends, len(sizes))]
            truth = float(np.average([one.target for one in levels], weights=sizes))
            hits = 0
            for _ in range(repetitions):
                parts = [areas(one.draw(rng, n))[0] for one, n in zip(levels, sizes, strict=True)]
                hits += inside(interval(np.concatenate(parts), strata=labels), truth)
            setting = f"{name}, accuracies {ends}"
            yield Row("strata cover", setting, labels.size, hits / repetitions, repetitions, LEAST)


STUDIES = (one_checkpoint, groups_of_seeds, aggregates, simultaneous_bands, clusters, strata)


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every study of this module."""
    for study in STUDIES:
        yield from study(rng, repetitions)
