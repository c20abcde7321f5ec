"""``python -m benchmarks.calibration``: run every topic, print its rows, and keep them."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import time
import zlib
from pathlib import Path

import numpy as np

import benchmarks.calibration as package
from benchmarks.calibration.rows import replace

TOPICS = sorted(
    module.name
    for module in pkgutil.iter_modules(package.__path__)
    if module.name not in {"__main__", "page", "processes", "rows"}
)


def main() -> None:
    """Read the command line, simulate, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--only", choices=TOPICS, action="append", help="a topic; may be repeated")
    parser.add_argument("--out", type=Path, help="the CSV file whose rows of these topics change")
    options = parser.parse_args()
    rows = []
    for topic in options.only or TOPICS:
        start = time.perf_counter()
        # Each topic has a stream of its own, so that one can be run again by itself.
        rng = np.random.default_rng([options.seed, zlib.crc32(topic.encode())])
        module = importlib.import_module(f"benchmarks.calibration.{topic}")
        for row in module.rows(rng, options.repetitions):
            rows.append(row.stored(topic))
            print(*rows[-1], sep=" | ", flush=True)
        print(f"({topic}: {time.perf_counter() - start:.0f} s)", flush=True)
    if options.out:
        replace(options.out, rows)


if __name__ == "__main__":
    main()
