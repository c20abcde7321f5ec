"""Two versions of aurac in turns on a CPU: seconds, the products' share, and whether answers agree.

    git worktree add ../before COMMIT
    python benchmarks/turns.py ../before . --data arc_easy=FOLDER --data gsm8k=FOLDER

Each version answers the same requests in a process of its own, which waits while the other works;
every other round in the opposite order. Wall and processor seconds are medians. The share is that
of the base's own matrix products, measured alone with the same shapes in the same process: of a
decoding pass of a hundred sequences, or of a whole scoring call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# name → row of `benchmarks/engine.py`, examples
WORKS = {
    "scoring, 25-shot, float32": ("arc-25-fp32", 8),
    "scoring, 25-shot, bfloat16": ("arc-25-bf16", 24),
    "scoring, 0-shot, float32": ("arc-0-fp32", 60),
    "scoring, 0-shot, bfloat16": ("arc-0-bf16", 200),
    "writing, word problems, float32": ("bundled-fp32", 160),
    "writing, word problems, bfloat16": ("bundled-bf16", 160),
    "writing, 5-shot, bfloat16": ("gsm8k-5-bf16", 24),
}
SEQUENCES = 100  # in flight at most; passes of so many are those whose share is told


def products(model: Any, shapes: list[tuple[int, int]]) -> float:
    """Seconds of the base's linear layers alone, for passes of (tokens, logits)."""
    import torch

    layers = [
        (layer, name)
        for name, layer in model.named_modules()
        if type(layer) is torch.nn.Linear and ".lora_" not in name
    ]
    rows = {rows for shape in shapes for rows in shape}
    inputs = {
        (count, width): torch.randn(count, width).to(model.dtype)
        for count in rows
        for width in {layer.in_features for layer, _ in layers}
    }
    began = time.perf_counter()
    for tokens, logits in shapes:
        for layer, name in layers:
            count = logits if name.endswith(("lm_head", "embed_out")) else tokens
            torch.nn.functional.linear(inputs[count, layer.in_features], layer.weight)
    return time.perf_counter() - began


def worker(args: argparse.Namespace) -> None:
    """Answer once for every line that comes."""
    sys.path.append(str(Path(__file__).parent))
    from aurac.models.device import keep_freed_memory, share_cores

    share_cores()
    keep_freed_memory()
    import engine
    import torch

    from aurac.engine import decoding
    from aurac.engine.lm import EngineLM

    name, count = WORKS[args.worker]
    args.documents, args.threads = min(count, args.documents or count), args.threads or None
    work = replace(engine.WORKS[name], documents=args.documents)
    model, tokenizer, requests, set_rank = engine.prepare(work, args)
    set_rank(engine.RANK)
    shapes: list[tuple[int, int]] = []
    passes: list[float] = []

    def seen(_model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        shapes.append((kwargs["input_ids"].shape[1], output.logits.shape[1]))

    model.register_forward_hook(seen, with_kwargs=True)
    advance: Callable[[Any], None] = decoding.Decoder._advance

    def timed(decoder: Any) -> None:
        full, began = len(decoder._active) == SEQUENCES, time.perf_counter()
        advance(decoder)
        if full:
            passes.append(time.perf_counter() - began)

    decoding.Decoder._advance = timed  # type: ignore[method-assign]
    lm = EngineLM(model, tokenizer, batch_size=SEQUENCES)
    ask = getattr(lm, requests[0].request_type)
    writes = requests[0].request_type == "generate_until"
    for _ in sys.stdin:
        lm.forget()
        shapes.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        answers = ask(requests)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        shares = []
        with torch.inference_mode():
            if not writes:
                shares.append(products(model, shapes) / wall)
            elif passes:
                alone = min(products(model, [(SEQUENCES, SEQUENCES)]) for _ in range(3))
                shares.append(alone / statistics.median(passes))
        share = shares[0] if shares else None
        print(json.dumps({"wall": wall, "cpu": cpu, "share": share, "answers": answers}))
        sys.stdout.flush()


def start(folder: str, work: str) -> subprocess.Popen[str]:
    """A worker on the package in a folder."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", work]
    environment = {**os.environ, "PYTHONPATH": str(Path(folder).resolve())}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a worker measures the next time."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    result: dict[str, Any] = json.loads(process.stdout.readline())
    return result


def agreement(before: list[Any], after: list[Any]) -> str:
    """How far the answers of both versions agree."""
    if isinstance(before[0], str):
        same = sum(a == b for a, b in zip(before, after, strict=True))
        return f"{same} of {len(before)} texts"
    gap = max(abs(a[0] - b[0]) for a, b in zip(before, after, strict=True))
    return f"within {gap:.1e}"


def main() -> None:
    """Print a row for each work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", help="folder with the package as it was")
    parser.add_argument("after", help="folder with the package as it is")
    parser.add_argument("--data", action="append", default=[], help="TASK=FOLDER")
    parser.add_argument("--works", default=",".join(map(str, range(len(WORKS)))), help="numbers")
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, help="at most so many")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    head = ("work", "wall before, s", "after", "ratio", "CPU ratio", "share before", "after")
    print(f"| {' | '.join(head)} | answers |", f"|{'---|' * 8}", sep="\n", flush=True)
    for number in map(int, args.works.split(",")):
        work = list(WORKS)[number]
        sides = [start(folder, work) for folder in (args.before, args.after)]
        rounds: list[list[dict[str, Any]]] = [[], []]
        for turn in range(args.rounds + 1):  # the first warms up
            for side in (0, 1) if turn % 2 else (1, 0):
                rounds[side].append(answer(sides[side]))
        for process in sides:
            process.communicate()
        measured = [
            {
                key: statistics.median(values)
                for key in ("wall", "cpu", "share")
                if (values := [one[key] for one in side[1:] if one[key] is not None])
            }
            for side in rounds
        ]
        (old, new), ends = measured, [side[-1]["answers"] for side in rounds]
        cells = [
            f"{old['wall']:.1f} | {new['wall']:.1f} | {new['wall'] / old['wall']:.2f}",
            f"{new['cpu'] / old['cpu']:.2f}",
            *(f"{one['share']:.2f}" if "share" in one else "" for one in measured),
            agreement(*ends),
        ]
        print(f"| {work} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
