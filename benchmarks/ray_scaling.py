r"""Two Ray workers against one: the same cells, one thread each, the same bytes.

    python benchmarks/ray_scaling.py adapters_zoo/word_problems/{lora,dylora} --limit 20 \
        --ranks all --tasks aurac_word_problems_mc

Ray places blocks of documents, so a fast worker takes more; with 128 documents or fewer a cell is
one block. The rate is that of the cells that come back while every worker has work: from when each
has brought its first (starting Python and loading the base are outside it) until the first finds
none left. The whole time is printed as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from aurac.runs.compare import compare


def measured(request: dict[str, Any], workers: int, folder: Path) -> dict[str, Any]:
    """Whole seconds, and cells per second once all workers are at work."""
    began = time.perf_counter()
    compare(out=folder, executor="ray", workers=workers, **request)
    seconds = time.perf_counter() - began
    [log] = (folder / "logs").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    clocks = [event["clock"] for event in events if event["event"] == "cell"]
    rest = clocks[workers - 1 : len(clocks) - (workers - 1)]
    return {
        "workers": workers,
        "cells": len(clocks),
        "seconds": round(seconds, 1),
        "cells_per_second": (len(rest) - 1) / (rest[-1] - rest[0]),
        "curves": json.dumps(json.loads((folder / "results.json").read_text())["curves"]),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--ranks", default="all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = ("checkpoints", "limit", "ranks", "dtype")
    request = {name: getattr(options, name) for name in names}
    request |= {"tasks": options.tasks.split(","), "device": "cpu"}
    with tempfile.TemporaryDirectory() as root:
        runs = [measured(request, workers, Path(root) / str(workers)) for workers in (1, 2)]
    one, two = runs
    results = {
        "same_curves": one.pop("curves") == two.pop("curves"),
        "speed_up": round(two["cells_per_second"] / one["cells_per_second"], 3),
        "runs": runs,
    }
    text = json.dumps(results, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
