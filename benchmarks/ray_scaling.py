r"""A Ray cluster of this machine against one process: the same cells, the same outcomes.

python benchmarks/ray_scaling.py adapters_zoo/word_problems/{lora,dylora} --limit 20 \
        --ranks all --tasks aurac_word_problems_mc
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from aurac.runs import compare
from aurac.runs.settings import Settings


def measured(words: dict[str, Any], folder: Path, ray: str | None) -> tuple[float, list[Any]]:
    """Seconds of the run, and the outcome of every example."""
    began = time.perf_counter()
    run = compare.run(Settings.of(out=folder, ray=ray, **words))
    outcomes = [curve.outcomes.tolist() for curve in run.curves if curve.outcomes is not None]
    return time.perf_counter() - began, outcomes


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--ranks", default="all")
    parser.add_argument("--dtype", default="float32")
    words = {**vars(parser.parse_args()), "device": "cpu"}
    compare.write_report = lambda _result: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as root:
        alone, one = measured(words, Path(root) / "alone", None)
        cluster, several = measured(words, Path(root) / "ray", "local")
    seconds = {"one process": round(alone, 1), "ray": round(cluster, 1)}
    print(json.dumps({"seconds": seconds, "same_outcomes": one == several}, indent=1))


if __name__ == "__main__":
    main()
