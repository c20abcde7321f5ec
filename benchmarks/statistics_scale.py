"""Speed and memory of the statistics: one curve after import, and a leaderboard of 200 adapters.

    python benchmarks/statistics_scale.py [--adapters 200] [--format arrays|parquet|csv]

Goals: a score with its interval for 9 ranks × 1319 documents within 20 ms after import; 200
adapters × 9 ranks × 14 042 documents with all pairs within a minute and 2 GiB. The second is
measured in a process of its own, from arrays or from a file, with its peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = tuple(2**i for i in range(9))
DOCUMENTS = 14_042


def made(rng: np.random.Generator, hard: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(9, n) outcomes of one adapter."""
    noise = rng.standard_normal((len(RANKS), hard.size))
    return hard + noise + rng.normal(0, 0.05) + np.linspace(-0.5, 0.3, len(RANKS))[:, None] > 0


def one_score() -> None:
    """Time `aurac.score`, in the middle and near 0."""
    import aurac
    from aurac.curves.curve import Curve

    rng = np.random.default_rng(0)
    matrix = made(rng, rng.standard_normal(1319)).astype(float)
    aurac.score({1: [0, 1], 2: [1, 1]})  # scipy's special functions are loaded here
    times = []
    for _ in range(20):
        start = time.perf_counter()
        aurac.score(Curve.from_outcomes(RANKS, matrix))
        times.append(time.perf_counter() - start)
    print(f"score with interval, 9 × 1319: median {1000 * np.median(times):.2f} ms (goal 20)")
    rare = matrix * (rng.random(1319) < 0.03)
    start = time.perf_counter()
    found = aurac.score(Curve.from_outcomes(RANKS, rare))
    seconds = time.perf_counter() - start
    print(f"near 0 ({found.log2.method.split(',')[0]}): {1000 * seconds:.2f} ms")


def write(path: Path, adapters: int) -> None:
    """A table of `adapters` × 9 × 14 042 rows, one adapter at a time."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    rng = np.random.default_rng(0)
    hard = rng.standard_normal(DOCUMENTS)
    rows = len(RANKS) * DOCUMENTS
    rank = pa.array(np.repeat(RANKS, DOCUMENTS))
    docs = pa.array([f"doc-{d}" for d in range(DOCUMENTS)] * len(RANKS))
    writer = None
    for i in range(adapters):
        name = pa.array([f"adapter-{i}"] * rows)
        score = pa.array(made(rng, hard).ravel().astype(np.float64))
        table = pa.table({"adapter": name, "rank": rank, "doc_id": docs, "score": score})
        if writer is None:
            kind = parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
    writer.close()


def leaderboard(adapters: int, path: Path | None) -> None:
    """Analyse all pairs and report time and peak memory of this process."""
    from aurac.analysis.whole import analyse
    from aurac.curves.curve import Curve
    from aurac.readers import read_curves

    start = time.perf_counter()
    if path is None:
        rng = np.random.default_rng(0)
        hard = rng.standard_normal(DOCUMENTS)
        ids = tuple(f"doc-{d}" for d in range(DOCUMENTS))
        curves = [
            Curve.from_outcomes(RANKS, made(rng, hard), doc_ids=ids, adapter=f"adapter-{i}")
            for i in range(adapters)
        ]
    else:
        curves = list(read_curves(path).curves)
    read = time.perf_counter() - start
    found = analyse(curves)
    text = json.dumps(found.to_dict(), allow_nan=False)
    total = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{adapters} adapters × {len(RANKS)} × {DOCUMENTS}, {len(found.pairs)} pairs, from "
        f"{path.suffix[1:] if path else 'arrays'}: {read:.1f} s to read, {total:.1f} s in all "
        f"({time.process_time():.1f} s of processor), peak {peak:.2f} GiB, "
        f"{len(text) / 2**20:.1f} MiB of JSON (goals 60 s, 2 GiB)"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--format", choices=["arrays", "parquet", "csv"], default="arrays")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        leaderboard(options.adapters, None if options.format == "arrays" else options.inside)
        return
    one_score()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"outcomes.{options.format}"
        if options.format != "arrays":
            write(path, options.adapters)
        command = [sys.executable, __file__, "--adapters", str(options.adapters)]
        command += ["--format", options.format, "--inside", str(path)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
