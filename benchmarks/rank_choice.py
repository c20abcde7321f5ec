"""Simulation of `--ranks auto`: ranks that it evaluates, kinks that it misses, and AURAC's bias.

    python benchmarks/rank_choice.py [--rank 16] [--repeat 200]

Right and wrong answers come from a latent probit model whose documents share 70 % of the variance
over the ranks, the rest being independent (the most noise that a bend can have) or, with --smooth,
alike for ranks that lie near each other. A kink hides twice the margin from the powers of two. It
counts as missed if a rank still departs by more than the margin at the end. docs/explain/aurac.md
has the results.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from aurac.adapters import default_nested_ranks
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.stats.gaps import MARGIN, following, gaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Accuracies = NDArray[np.float64]

SHARED = 0.7  # of the latent variance: how hard the document is
SIZES = (100, 300, 1000, 5000)
CURVES = (1, 6)  # of which the first has the shape and the others are lines


def shapes(R: int) -> dict[str, Accuracies]:
    """Name → accuracies at the ranks 1..R, over log2 r."""
    x = np.log2(np.arange(1, R + 1))
    line = 0.3 + 0.3 * x / x[-1]
    result = {"flat": np.full(R, 0.45), "line": line}
    result["saturating"] = 0.3 + 0.3 * -np.expm1(-x) / -np.expm1(-x[-1])
    result["sigmoid"] = 0.3 + 0.3 / (1 + np.exp(-2 * (x - 2.5)))
    result["kink at rank 4"] = 0.55 + 0.1 * np.minimum(x - 2, 0)
    for low, share in ((4, 0.5), (4, 0.25), (8, 0.5), (8, 0.25)):
        result[f"kink in {low}–{2 * low}, at {share}"] = kink(x, low, share)
    return result


def kink(x: Accuracies, low: int, share: float, hidden: float = 2 * MARGIN) -> Accuracies:
    """A line that is flat from a place between `low` and its double on; its kink hides `hidden`."""
    rise = hidden / (share * (1 - share))
    return np.clip(0.55 + rise * np.minimum(x - np.log2(low) - share, 0), 0.05, 0.95)


def draw(accuracies: Accuracies, n: int, rng: np.random.Generator, *, smooth: bool) -> Accuracies:
    """(R, n) right and wrong answers."""
    x = np.log2(np.arange(1, accuracies.size + 1))
    alike = np.exp(-np.abs(x[:, None] - x) / 2) if smooth else np.eye(x.size)
    root = np.linalg.cholesky(SHARED + (1 - SHARED) * alike)
    latent = root @ rng.standard_normal((x.size, n))
    return (latent < ndtri(accuracies)[:, None]).astype(np.float64)


def choose(outcomes: Sequence[Accuracies], margin: float = MARGIN) -> tuple[int, ...]:
    """The ranks that are evaluated for curves whose (R, n) outcomes are these."""
    ranks = default_nested_ranks(outcomes[0].shape[0])
    while True:
        curves = [Curve.from_outcomes(ranks, rows[np.array(ranks) - 1]) for rows in outcomes]
        more = following((gap for c in curves for gap in gaps(c, len(curves))), margin)
        if not more:
            return ranks
        ranks = tuple(sorted({*ranks, *more}))


def departure(accuracies: Accuracies, ranks: Sequence[int]) -> float:
    """The largest of any rank from the straight lines between the evaluated ones."""
    every = np.arange(1, accuracies.size + 1)
    at = accuracies[np.array(ranks) - 1]
    return float(np.abs(np.interp(np.log2(every), np.log2(ranks), at) - accuracies).max())


def simulate(name: str, R: int, n: int, curves: int, repeat: int, *, smooth: bool) -> list[float]:
    """Means over simulated runs.

    Returns:
        Added ranks, share of runs that missed, and AURAC minus that of all ranks 1..R of the same
        answers: over the evaluated ranks, over the powers of two.
    """
    rng = np.random.default_rng([R, n, curves])
    true, line = shapes(R)[name], shapes(R)["line"]
    pow2 = default_nested_ranks(R)
    rows = []
    for _ in range(repeat):
        drawn = [draw(true if k == 0 else line, n, rng, smooth=smooth) for k in range(curves)]
        ranks = choose(drawn)
        means = drawn[0].mean(axis=1)
        chosen, coarse, dense = (
            quadrature_weights(used) @ means[np.array(used) - 1]
            for used in (ranks, pow2, range(1, R + 1))
        )
        missed = departure(true, ranks) > MARGIN
        rows.append([len(ranks) - len(pow2), missed, chosen - dense, coarse - dense])
    return [float(value) for value in np.mean(rows, axis=0)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--smooth", action="store_true")
    options = parser.parse_args()
    print("| curve | curves | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |")
    for name in shapes(options.rank):
        for curves in CURVES:
            cells = []
            for n in SIZES:
                added, missed, bias, before = simulate(
                    name, options.rank, n, curves, options.repeat, smooth=options.smooth
                )
                cells.append(
                    f"{added:.1f} / {missed:.2f} / {100 * bias:+.2f} ({100 * before:+.2f})"
                )
            print(f"| {name} | {curves} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
