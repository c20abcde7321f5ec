"""Sequences of commands against the oracle of `tests/program`, many more than the tests run.

    python -m benchmarks.sequences --out FILE.jsonl [--count 2000] [--part 1/2]

They come in batches of 20, a line of the file for each; the same command goes on behind those that
are there. `--part 1/2` and `--part 2/2` are the halves, for two processes. `--seed N` runs one
batch again and looks for the shortest sequence that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

BATCH, STEPS = 20, 8
TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]


def batch(number: int, *, shrink: bool) -> dict[str, Any]:
    """Run the sequences of a seed; the line that is kept."""
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test
    from program import machine

    commands, program, began = [0], machine.program, time.monotonic()
    machine.Sequences.reached.clear()

    def counted(*words: object, **options: Any) -> Any:
        commands[0] += 1
        return program(*words, **options)

    limits: dict[str, Any] = {"max_examples": BATCH, "stateful_step_count": STEPS}
    limits |= {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    phases = [Phase.generate, *[Phase.shrink] * shrink]
    failure, said = None, io.StringIO()
    machine.program = counted
    try:
        with contextlib.redirect_stdout(said):
            chosen = settings(**limits, phases=phases, print_blob=False)
            run_state_machine_as_test(seed(number)(machine.Sequences), settings=chosen)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is what is looked for
        notes = "\n".join(getattr(error, "__notes__", []))
        place = traceback.format_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {error}\n{place}{notes}"
    finally:
        machine.program = program
    seconds = round(time.monotonic() - began, 1)
    counts = {"sequences": BATCH, "commands": commands[0], "seconds": seconds}
    reached = dict(machine.Sequences.reached)
    return {"seed": number, **counts, "reached": reached, "failure": failure}


def kept(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Run what is missing, say what was found, and fail if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    from program import machine
    from support.table_world import write

    machine.Sequences.root = write(Path(tempfile.mkdtemp()))
    with machine.quick(machine.Sequences.root):
        if options.seed is not None:
            print(batch(options.seed, shrink=True)["failure"] or "nothing was found")
            return
        if options.out is None:
            parser.error("--out says where to keep what was found")
        there = {line["seed"] for line in kept(options.out)}
        part, parts = map(int, options.part.split("/"))
        for number in range(part - 1, options.count // BATCH, parts):
            if number not in there:
                line = batch(number, shrink=False)
                with options.out.open("a") as file:
                    file.write(f"{json.dumps(line)}\n")
    lines = kept(options.out)
    failed = [line["seed"] for line in lines if line["failure"]]
    total = {name: sum(line[name] for line in lines) for name in ("sequences", "commands")}
    print(*(line["failure"] for line in lines if line["failure"]), sep="\n", file=sys.stderr)
    reached = sum((Counter(line["reached"]) for line in lines), Counter())
    print(json.dumps({**total, **reached, "failed": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
