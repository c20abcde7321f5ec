"""What a study reports: AURAC over 5 ranks, few seeds, the same documents for all methods.

Accuracies, and the shares of the latent variance that a document, a method and a checkpoint bring,
are like those of reports/study. The methods of a seed train on the same order of data, so that
their shifts may be correlated; two truncations of a checkpoint share it.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from aurac.analysis.whole import paired_family
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.stats import difference, over_seeds
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

RANKS = (1, 2, 4, 8, 16)
WEIGHTS = quadrature_weights(RANKS, "log2")
STEEP = np.array([0.19, 0.31, 0.43, 0.55, 0.58])  # LoRA and MatryoshkaLoRA by prefix
FLAT = np.array([0.29, 0.315, 0.315, 0.26, 0.23])  # DyLoRA
# Shares of the latent variance: documents, method × document, checkpoint × document.
SHARES, CLOSE = (0.70, 0.05, 0.09), (0.88, 0.0, 0.05)
COUNTS, SIZES, SPREADS = (3, 5), (150, 240, 1000), (0.0, 0.011, 0.03)
TAIL = 0.05 / 13  # Holm's first step in a family of 13
ALIKE = (-1.0, 0.0, 0.8)  # correlation of the seeds' shifts of two truncations


def moved(accuracy: NDArray[np.float64], area: float) -> NDArray[np.float64]:
    """The curve, shifted on the latent scale to an AURAC of `area`."""

    def beyond(shift: float) -> float:
        return float(WEIGHTS @ ndtr(ndtri(accuracy) + shift)) - area

    return np.asarray(ndtr(ndtri(accuracy) + brentq(beyond, -3.0, 3.0)))


def draw(
    rng: np.random.Generator,
    curves: list[NDArray[np.float64]],
    seeds: int,
    n: int,
    sd: float | tuple[float, ...],
    *,
    alike: float = 0.0,
    shared: float = 0.0,
    shares: tuple[float, float, float] = SHARES,
) -> NDArray[np.float64]:
    """(M, S, K, n) outcomes of M curves with these accuracies.

    `sd` is that of the seeds' AURAC, of all curves or of each, `alike` the correlation of the
    curves' shifts of one seed, `shared` the share of a method's and a
    checkpoint's own difficulties that all curves have.
    """
    accuracy = np.stack(curves)
    count = len(accuracy)
    scale = (np.asarray(sd) / (norm.pdf(ndtri(accuracy)) @ WEIGHTS))[:, None]
    common, own = rng.standard_normal(seeds), rng.standard_normal((count, seeds))
    signs = np.where(np.arange(count) % 2, np.sign(alike), 1.0)[:, None]
    shift = scale * (np.sqrt(abs(alike)) * signs * common + np.sqrt(1 - abs(alike)) * own)

    def part(variance: float, *shape: int) -> NDArray[np.float64]:
        same, each = rng.standard_normal(shape), rng.standard_normal((count, *shape))
        return np.sqrt(variance) * (np.sqrt(shared) * same + np.sqrt(1 - shared) * each)

    latent = (ndtri(accuracy) * np.sqrt(1 + scale**2))[:, None, :, None] + shift[..., None, None]
    document, method, checkpoint = shares
    latent = latent + np.sqrt(document) * rng.standard_normal(n)
    latent = latent + part(method, 1, 1, n) + part(checkpoint, seeds, 1, n)
    noise = np.sqrt(1 - sum(shares))
    return (latent + noise * rng.standard_normal((count, seeds, len(RANKS), n)) > 0).astype(float)


def methods(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Two methods, of equal AURAC in the rows of p, and one of them."""
    truth = WEIGHTS @ STEEP, WEIGHTS @ FLAT
    equal = moved(FLAT, float(truth[0]))
    for seeds, n, sd in product(COUNTS, SIZES, SPREADS):
        hits = np.zeros(5)
        for _ in range(repetitions):
            steep, flat, null = WEIGHTS @ draw(rng, [STEEP, FLAT, equal], seeds, n, sd)
            one, two = over_seeds(steep), difference(flat, steep).estimate
            same = difference(null, steep)
            hits[0] += one.low <= truth[0] <= one.high
            hits[1] += two.low <= truth[0] - truth[1] <= two.high
            hits[2:4] += same.p <= 0.05, same.p <= TAIL
            hits[4] += (same.p < 0.05) != (same.estimate.low * same.estimate.high > 0)
        setting, (one_in, two_in, small, tail, _) = _points(seeds, sd), hits / repetitions
        note = f"p ≤ .05/13: {tail:.3f}; p contradicts the interval in {hits[4]:.0f}"
        yield Row("study: one method covers", setting, n, one_in, repetitions, "≥ .935")
        yield Row("study: two methods, covers", setting, n, two_in, repetitions, "≥ .935")
        yield Row("study: two methods, p ≤ .05", setting, n, small, repetitions, "≤ .055", note)


def _points(seeds: int, sd: float) -> str:
    return f"{seeds} seeds, seed sd {100 * sd:g} points"


def _curves(outcomes: NDArray[np.float64], task: str, names: list[tuple[str, str]]) -> list[Curve]:
    """Curves of (M, S, K, n) outcomes; a name is an adapter and its truncation."""
    docs = tuple(map(str, range(outcomes.shape[-1])))
    return [
        Curve.from_outcomes(
            RANKS, scores, adapter=f"{name}{seed}", task=task, basis=basis, doc_ids=docs
        )
        for (name, basis), every in zip(names, outcomes, strict=True)
        for seed, scores in enumerate(every)
    ]


def truncations(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Two truncations, equally good, of the same checkpoints."""
    names, equal = [("a", "prefix"), ("a", "svd")], moved(FLAT, float(WEIGHTS @ STEEP))
    for seeds, n, alike in product(COUNTS, SIZES[::2], ALIKE):
        groups = {"a": [f"a{seed}" for seed in range(seeds)]}
        hits = np.zeros(2)
        for _ in range(repetitions):
            scores = draw(rng, [STEEP, equal], seeds, n, 0.03, alike=alike, shared=0.5)
            (row,) = paired_family(_curves(scores, "t", names), groups=groups)
            hits += row.p <= 0.05, row.p <= 0.05 / 6
        setting = f"{_points(seeds, 0.03)}, correlation {alike:g}"
        small, tail = hits / repetitions
        yield Row("study: two truncations of the same seeds, p ≤ .05", setting, n, small,
                  repetitions, "≤ .055", f"p ≤ .05/6: {tail:.3f}")  # fmt: skip


def families(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Any verdict between equal methods: 3 with 5 seeds on 150 documents, 5 with 3 on 240."""
    layout = {"a": (3, 5, 150, 0.41), "b": (5, 3, 240, 0.18)}
    shapes = {
        t: [moved(shape, area) for shape in (STEEP, FLAT)] for t, (*_, area) in layout.items()
    }
    for sd, alike in ((0.0, 0.0), (0.011, 0.6), (0.03, 0.0), (0.03, 0.6)):
        wrong = 0
        for _ in range(repetitions):
            curves, groups = [], {}
            for task, (count, seeds, n, _) in layout.items():
                equal = [shapes[task][i % 2] for i in range(count)]
                scores = draw(rng, equal, seeds, n, sd, alike=alike)
                names = [(f"{task}{i}-", "prefix") for i in range(count)]
                curves += _curves(scores, task, names)
                groups |= {name: [f"{name}{s}" for s in range(seeds)] for name, _ in names}
            rows = paired_family(curves, groups=groups)
            wrong += any(row.p_holm <= 0.05 for row in rows)
        setting = f"13 pairs, seed sd {100 * sd:g} points, correlation of seeds {alike:g}"
        yield Row("study: any pair significant", setting, 0, wrong / repetitions, repetitions,
                  "≤ .055")  # fmt: skip


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic; families and plans take long, so that a fifth is made of them."""
    yield from methods(rng, repetitions)
    yield from truncations(rng, repetitions)
    yield from families(rng, max(1, repetitions // 5))
