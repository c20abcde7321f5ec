"""Sequences of studies against the oracle of `tests/study`, many more than the tests run.

    python -m benchmarks.studies --out FILE.jsonl [--count 500] [--part 1/2]

Each is a line of the file; the same command goes on behind those that are there. `--part 1/2` and
`--part 2/2` are the halves, for two processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.sequences import kept

STEPS = 4


def main() -> None:
    """Run what is missing, say what was found, and fail if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--part", default="1/1")
    options = parser.parse_args()
    from program.machine import quick
    from study.machine import Sequence
    from support.table_world import write

    root, there = write(Path(tempfile.mkdtemp())), {line["seed"] for line in kept(options.out)}
    part, parts = map(int, options.part.split("/"))
    with quick(root):
        for seed in range(part - 1, options.count, parts):
            if seed in there:
                continue
            sequence, began, failure = Sequence(seed, root), time.monotonic(), None
            try:
                sequence.run(STEPS)
            except Exception as error:  # noqa: BLE001 - whatever went wrong is what is looked for
                failure = "".join(traceback.format_exception(error)[-2:])
            line = {"seed": seed, "steps": sequence.log, "failure": failure}
            line["seconds"] = round(time.monotonic() - began, 1)
            with options.out.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
    lines = kept(options.out)
    failed = [line["seed"] for line in lines if line["failure"]]
    print(json.dumps({"sequences": len(lines), "failed": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
