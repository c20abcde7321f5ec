"""DoRA's time beside LoRA's in the rank sweep, one block of documents; prints a Markdown row.

    python benchmarks/dora.py [--task aurac_word_problems] [--documents 64] [--rounds 5]

Two models with the same random factors (R = 16, all projections) answer the same requests at rank
16, one after the other and every other round in the opposite order. Only the second has magnitudes,
whose norms are computed once for the block; that is inside its time. Processor seconds of this
process count, so that other work on the machine does not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aurac.models.device import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_adapter(model: Any, *, dora: bool) -> Any:
    """Factors (and the base's own norms as magnitudes) for the projections of a model."""
    import torch

    from aurac.adapters import Adapter, Factors

    generator, modules = torch.Generator().manual_seed(0), {}
    for name, layer in model.named_modules():
        if name.endswith(PROJECTIONS):
            down = torch.randn(RANK, layer.in_features, generator=generator) / 30
            up = torch.randn(layer.out_features, RANK, generator=generator) / 1000
            modules[name] = Factors(A=down, B=up, alpha=float(RANK), rule="rank")
            if dora:
                norms = layer.weight.detach().float().norm(dim=1)
                modules[name] = replace(modules[name], magnitude=norms)
    return Adapter(name="dora" if dora else "lora", modules=modules)


def answering(args: argparse.Namespace, attached: ExitStack, *, dora: bool) -> Callable[[], object]:
    """What answers the requests once, with a model of its own that stays attached."""
    from aurac.adapters import attach, prepare
    from aurac.engine.lm import EngineLM
    from aurac.models.base import load_base
    from aurac.tasks.build import build_tasks
    from aurac.tasks.options import TaskOptions

    base = load_base(args.base, dtype=args.dtype)
    options = TaskOptions(limit=args.documents)
    (task,) = build_tasks([args.task], tokenizer=base.tokenizer, options=options)
    asked = task.instances(range(len(task)))
    answer = getattr(EngineLM(base.model, base.tokenizer), asked[0].request_type)
    adapter = random_adapter(base.model, dora=dora)
    live = attached.enter_context(attach(base.model, prepare(adapter)))
    live.set_rank(RANK)
    return lambda: answer(asked)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="aurac_word_problems_mc")
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    share_cores()
    seconds: list[list[float]] = [[], []]
    with ExitStack() as attached:
        ways = [answering(args, attached, dora=dora) for dora in (False, True)]
        for number in range(args.rounds + 1):
            for kind in (0, 1)[:: -1 if number % 2 else 1]:
                start = time.process_time()
                ways[kind]()
                if number:  # the first one compiles kernels for new shapes
                    seconds[kind].append(time.process_time() - start)
                    print(f"{seconds[kind][-1]:.2f}", file=sys.stderr, flush=True)
    ratios = [dora / lora for lora, dora in zip(*seconds, strict=True)]
    lora, dora = (statistics.median(each) for each in seconds)
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    cells = [args.task, args.dtype, args.documents, f"{lora:.1f}", f"{dora:.1f}"]
    print("| task | dtype | documents | LoRA, CPU s | DoRA, CPU s | ratio | range |")
    print("|---|---|---|---|---|---|---|")
    print(f"| {' | '.join(map(str, cells))} | {statistics.median(ratios):.2f} | {spread} |")


if __name__ == "__main__":
    main()
