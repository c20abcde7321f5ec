"""The configuration to ship: how often it is too bad, how often one is named, how small it is.

Documents are a latent probit of their own difficulty, the adapter, the truncation and the rank;
neighbouring ranks of a curve agree most. The second truncation of an adapter loses more at small
ranks and is the first one at the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from aurac.analysis.choice import choose
from aurac.analysis.groups import gather
from aurac.analysis.rows import Options
from aurac.curves.curve import Curve
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.analysis import Choice

ADAPTERS, RANKS = (1, 2, 3, 6), (5, 8)
STUDIES = ((100, 0.05), (300, 0.05), (1319, 0.02))
# Of the latent variance: the documents, the adapter, the truncation, the rank.
PARTS = (0.5, 0.2, 0.1, 0.2)
NEAR = 0.8  # correlation of the last part between neighbouring ranks


def accuracies(kind: str, adapters: int, ranks: int, margin: float) -> NDArray[np.float64]:
    """(adapters, 2, ranks) true accuracies."""
    size = np.linspace(0.0, 1.0, ranks)
    rise = 0.4 + 0.2 * (1 - np.exp(-3.5 * size)) / (1 - np.exp(-3.5))
    result = np.tile(rise, (adapters, 2, 1))
    if kind.startswith("boundary"):  # all but one configuration lose the margin exactly
        result[:] = 0.6 - margin
        result[0, :, -1] = 0.6
        return result
    if kind == "crossing":
        result[1::2] = 0.585 - 0.05 * (1 - size)
    if kind == "best in the middle":
        result[:] = 0.6 - 0.3 * np.abs(size - 0.6) ** 1.2
    if kind == "2 points apart":
        result -= 0.02 * np.arange(adapters)[:, None, None]
    result[:, 1] -= 0.08 * (1 - size)
    return result


def outcomes(
    rng: np.random.Generator, n: int, accuracy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(adapters, 2, ranks, n) 0/1 scores with these means."""
    adapters, truncations, ranks = accuracy.shape
    hard, own, cut, rest = np.sqrt(PARTS)
    noise = rng.standard_normal((adapters, truncations, ranks, n))
    noise[:, 1, -1] = noise[:, 0, -1]
    for at in range(ranks - 2, -1, -1):
        noise[:, :, at] = NEAR * noise[:, :, at + 1] + np.sqrt(1 - NEAR**2) * noise[:, :, at]
    ways = rng.standard_normal((adapters, truncations, 1, n))
    angle = np.linspace(1.0, 0.0, ranks)[:, None] * np.pi / 2  # to the first one at the largest
    way = np.stack([ways[:, 0] * np.ones((ranks, 1)), np.sin(angle) * ways[:, 1]
                    + np.cos(angle) * ways[:, 0]], axis=1)  # fmt: skip
    latent = hard * rng.standard_normal(n) + own * rng.standard_normal((adapters, 1, 1, n))
    return np.asarray(ndtri(accuracy)[..., None] + latent + cut * way + rest * noise > 0, float)


def chosen(scores: NDArray[np.float64], margin: float, kind: str) -> Choice:
    """What is said of a table of outcomes, as `aurac recommend --margin` says it."""
    ranks = [2**at for at in range(scores.shape[2])]
    curves = [
        Curve.from_outcomes(
            ranks,
            scores[at, way],
            adapter=f"a{at}",
            task="t",
            basis=("prefix", "svd")[way],
            sizes={r: 1000 * r * (1 + at * ("sizes" in kind)) for r in ranks},
        )
        for at in range(len(scores))
        for way in range(2)
    ]
    return choose(gather(curves), Options(margin=margin))


def shipped(
    rng: np.random.Generator, repetitions: int, kind: str, shape: tuple[int, int], n: int,
    margin: float,
) -> Iterable[Row]:  # fmt: skip
    """Error, share of runs that name a configuration, and how often its size is halved."""
    truth = accuracies(kind, *shape, margin)
    wrong = named = 0
    halved = 0.0
    for _ in range(repetitions):
        choice = chosen(outcomes(rng, n, truth), margin, kind)
        one = choice.chosen
        if one is not None and one.bytes is not None:
            at, way = int(one.adapter[1:]), ("prefix", "svd").index(one.truncation)
            mean = truth[at, way, int(np.log2(one.rank))]
            wrong += truth.max() - mean >= margin - 1e-12
            named += 1
            largest = max(c.bytes or 0 for c in choice.configurations)
            halved += np.log2(largest / one.bytes)
    where = f"{kind}; {shape[0]} adapters × 2 × {shape[1]} ranks, margin {margin:g}"
    note = f"halved {halved / max(named, 1):.2f} times"
    yield Row("named, loses the margin", where, n, wrong / repetitions, repetitions, "≤ .055")
    yield Row("a configuration is named", where, n, named / repetitions, repetitions, "–", note)


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """The boundary for all sizes of a run; other shapes of curves for some."""
    for adapters in ADAPTERS:
        for ranks in RANKS:
            yield from shipped(rng, repetitions, "boundary", (adapters, ranks), 1319, 0.05)
    for kind in ("boundary, unequal sizes", "ties", "2 points apart", "crossing",
                 "best in the middle", "unequal sizes"):  # fmt: skip
        for n, margin in STUDIES:
            yield from shipped(rng, repetitions, kind, (3, 5), n, margin)
    for n, margin in STUDIES:
        yield from shipped(rng, repetitions, "ties", (1, 5), n, margin)
