"""Speed and memory of the statistics: one curve after import, and a leaderboard of many adapters.

    python benchmarks/statistics_scale.py [--adapters 50] [--table]

Goals: a score with its interval for 9 ranks × 1319 examples within 20 ms after import; 50 adapters
× 9 ranks × 14 042 examples with all pairs, at each rank too, within a minute and 2 GiB.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import aurac
from aurac.analysis import analyse
from aurac.curves.curve import Curve
from aurac.readers import read_curves

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = tuple(2**i for i in range(9))
EXAMPLES = 14_042


def made(rng: np.random.Generator, hard: NDArray[np.float64]) -> NDArray[np.float64]:
    """(9, n) outcomes of one adapter."""
    noise = rng.standard_normal((len(RANKS), hard.size))
    right = hard + noise + rng.normal(0, 0.05) + np.linspace(-0.5, 0.3, len(RANKS))[:, None] > 0
    return right.astype(np.float64)


def one_score() -> float:
    """Median seconds of `aurac.score`."""
    rng = np.random.default_rng(0)
    matrix, times = made(rng, rng.standard_normal(1319)), []
    for _ in range(20):
        start = time.perf_counter()
        aurac.score(Curve.from_outcomes(RANKS, matrix))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def leaderboard(adapters: int, *, table: bool) -> str:
    """Analyse all pairs; time and peak memory of this process."""
    rng = np.random.default_rng(0)
    hard, ids = rng.standard_normal(EXAMPLES), tuple(f"doc-{d}" for d in range(EXAMPLES))
    curves = [
        Curve.from_outcomes(RANKS, made(rng, hard), doc_ids=ids, adapter=f"adapter-{i}")
        for i in range(adapters)
    ]
    start = time.perf_counter()
    if table:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "outcomes.parquet"
            index = pd.MultiIndex.from_product([RANKS, ids], names=["rank", "doc_id"])
            rows = [
                pd.DataFrame({"score": np.ravel(c.outcomes)}, index).assign(adapter=c.adapter)
                for c in curves
            ]
            pd.concat(rows).reset_index().to_parquet(path)
            start = time.perf_counter()
            curves = list(read_curves(path))
    read = time.perf_counter() - start
    found = analyse(curves)
    total = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{adapters} adapters × {len(RANKS)} × {EXAMPLES}, {len(found.pairs)} pairs: {read:.1f} s "
        f"to read, {total:.1f} s in all, peak {peak:.2f} GiB (goals 60 s, 2 GiB)"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", type=int, default=50)
    parser.add_argument("--table", action="store_true", help="read them from a Parquet file")
    options = parser.parse_args()
    print(f"score with interval, 9 × 1319: {1000 * one_score():.2f} ms (goal 20)")
    print(leaderboard(options.adapters, table=options.table))


if __name__ == "__main__":
    main()
