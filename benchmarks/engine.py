"""The speed of a rank sweep beside lm-eval's own loop (``HFLM`` + PEFT); prints a Markdown table.

    python benchmarks/engine.py --data arc_easy=FOLDER --data gsm8k=FOLDER

Both sides evaluate the same unmerged LoRA adapter (random, R = 16, all projections) on the same
prompts, in a process of their own, one after the other, with the same threads: ``HFLM`` at every
batch size of ``--batch-sizes`` (its best one counts), ours with its defaults. Loading the model and
building the prompts is outside the times; tokenising them is inside. ``HFLM`` is measured once at
rank 16, which stands for its other ranks, and once at rank 0; our sweep is run whole.

``--memory`` prints instead how the peak of our process's memory grows with documents and ranks.

``--clock cpu`` counts processor seconds instead of wall seconds: on a machine that others use, with
one thread, only those can be compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.models.device import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANK = 16
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Work:
    """One row of the table; `batch_sizes` are HFLM's, whose best one has to lie within."""

    task: str
    shots: int
    documents: int
    ranks: int
    fewshot: str
    batch_sizes: str
    dtype: str = "bfloat16"

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.task} {self.shots}-shot {self.fewshot}, {self.dtype}"


_WORKS = {
    "arc-25": Work("arc_easy", 25, 100, 6, "stock", "2,4,8,16"),
    "arc-25-fixed": Work("arc_easy", 25, 100, 6, "fixed", "2,4,8,16"),
    "arc-0": Work("arc_easy", 0, 500, 6, "stock", "4,8,16,32"),
    "gsm8k-5": Work("gsm8k", 5, 64, 4, "stock", "4,8,16,32"),
    "bundled": Work("aurac_word_problems", 0, 500, 6, "stock", "32,64,128,256"),
}
WORKS = {
    f"{name}-{short}": replace(work, dtype=dtype)
    for name, work in _WORKS.items()
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
}
MEMORY = (("arc-0-fp32", 125, 1), ("arc-0-fp32", 1000, 1), ("arc-0-bf16", 125, 1))
MEMORY = (*MEMORY, ("arc-0-bf16", 2000, 1), ("arc-0-bf16", 500, 3))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--works", default=",".join(WORKS), help="rows, comma-separated")
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1", help="base model")
    parser.add_argument("--data", action="append", default=[], help="TASK=FOLDER")
    parser.add_argument("--documents", type=int, help="at most so many documents")
    parser.add_argument("--ranks", type=int, help="at most so many ranks")
    parser.add_argument("--batch-sizes", help="of HFLM, instead of each row's own")
    parser.add_argument("--repeats", type=int, default=3, help="of our sweep")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--side", choices=("engine", "hflm"), help=argparse.SUPPRESS)
    return parser.parse_args()


def ranks_of(work: Work, most: int | None) -> list[int]:
    """Ranks 0 (the base), 1, 2, 4, 8, 16, the last ones of them."""
    return [0, 1, 2, 4, 8, 16][-min(work.ranks, most or work.ranks) :]


def prepare(
    work: Work, args: argparse.Namespace
) -> tuple[Any, Any, list[Any], Callable[[int], None]]:
    """The model with a random adapter, its tokenizer, the requests, and the rank switch."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from aurac.models.base import load_base
    from aurac.tasks.build import build_tasks
    from aurac.tasks.options import TaskOptions

    if args.threads:
        torch.set_num_threads(args.threads)
    base = load_base(args.base, dtype=work.dtype)
    data = {name: Path(folder) for name, _, folder in (d.partition("=") for d in args.data)}
    options = TaskOptions(
        num_fewshot=work.shots,
        limit=min(work.documents, args.documents or 10**9),
        data={work.task: data[work.task]} if work.task in data else {},
        fewshot=work.fewshot,
    )
    (task,) = build_tasks([work.task], tokenizer=base.tokenizer, options=options)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PROJECTIONS, inference_mode=True)
    inject_adapter_in_model(config, base.model, adapter_name="a")
    layers = [m for m in base.model.modules() if hasattr(m, "lora_A")]
    full = []
    for layer in layers:
        down, up = layer.lora_A["a"].weight, layer.lora_B["a"].weight
        torch.nn.init.normal_(up, std=1e-3)
        full.append((down.data.float(), up.data.float()))  # as PEFT loads factors on a 16-bit base

    def set_rank(rank: int) -> None:
        for layer, (down, up) in zip(layers, full, strict=True):
            layer.lora_A["a"].weight.data = down[: max(rank, 1)].contiguous()
            layer.lora_B["a"].weight.data = up[:, : max(rank, 1)].contiguous()
            layer.enable_adapters(enabled=rank > 0)

    base.model.eval()
    return base.model, base.tokenizer, task.instances(range(len(task))), set_rank


def run_hflm(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one rank at the best batch size, those of the base, and the answers."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer, instances, set_rank = prepare(work, args)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter

    def timed(size: int, rank: int) -> tuple[float, list[Any]]:
        set_rank(rank)
        ask = getattr(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size), instances[0].request_type
        )
        ask(instances[:2], disable_tqdm=True)
        start = clock()
        answers = ask(instances, disable_tqdm=True)
        return clock() - start, answers

    sizes = map(int, (args.batch_sizes or work.batch_sizes).split(","))
    measured = {size: timed(size, RANK) for size in sizes}
    best = min(measured, key=lambda size: measured[size][0])
    adapted, answers = measured[best]
    base = timed(best, 0)[0] if 0 in ranks_of(work, args.ranks) else 0.0
    return {"best": best, "adapted": adapted, "base": base, "answers": answers}


def run_engine(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each whole sweep, the answers at the largest rank, and memory in MiB."""
    from aurac.engine.lm import EngineLM

    model, tokenizer, instances, set_rank = prepare(work, args)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    getattr(EngineLM(model, tokenizer), instances[0].request_type)(instances[:2])
    before, seconds, answers = resident(), [], []
    for _ in range(args.repeats):
        lm = EngineLM(model, tokenizer)
        start = clock()
        for rank in ranks_of(work, args.ranks):
            set_rank(rank)
            lm.forget()
            answers = getattr(lm, instances[0].request_type)(instances)
        seconds.append(clock() - start)
    documents = [instance.doc_id for instance in instances]
    memory = {"before": before, "peak": resident()}
    return {"seconds": seconds, "answers": answers, "documents": documents, **memory}


def resident() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def side(name: str, work: str, *more: str) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", name, "--works", work, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def agreement(mine: list[Any], theirs: list[Any], documents: Sequence[int]) -> str:
    """How far the answers agree: texts, or log-likelihoods and the picks that they make."""
    if isinstance(mine[0], str):
        return f"{sum(a == b for a, b in zip(mine, theirs, strict=True))}/{len(mine)} texts"
    gap = max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True))
    apart, count = [], 0
    for _, places in groupby(range(len(mine)), lambda place: documents[place]):
        choices = list(places)
        ours, other = (max(choices, key=lambda p: side[p][0]) for side in (mine, theirs))
        apart += [mine[ours][0] - mine[other][0]] * (ours != other)
        count += 1
    told = f"log-likelihoods within {gap:.1e}, {len(apart)}/{count} picks differ"
    return f"{told}, by up to {max(apart):.2f}" if apart else told


def row(name: str, args: argparse.Namespace) -> str:
    """Measure one row of the table."""
    work = WORKS[name]
    theirs, mine = side("hflm", name), side("engine", name)
    ranks = ranks_of(work, args.ranks)
    loop = theirs["adapted"] * sum(rank > 0 for rank in ranks) + theirs["base"]
    ours = statistics.median(mine["seconds"])
    cells = [
        work.label,
        f"{len(set(mine['documents']))} x {len(ranks)}",
        f"{loop:.1f} (batch {theirs['best']})",
        f"{ours:.1f} ({min(mine['seconds']):.1f}-{max(mine['seconds']):.1f})",
        f"**{loop / ours:.1f} x**",
        agreement(mine["answers"], theirs["answers"], mine["documents"]),
        f"{mine['peak'] / 2**10:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, or the result of one side of one row."""
    args = arguments()
    if args.side:
        if args.side == "engine":
            share_cores()  # as the command line does, before torch is imported
        run = {"engine": run_engine, "hflm": run_hflm}[args.side]
        print(json.dumps(run(WORKS[args.works], args)))
        return
    if args.memory:
        print("| work | documents | ranks | with model and requests, MiB | peak, MiB |")
        print("|---|---|---|---|---|")
        for name, documents, ranks in MEMORY:
            peaks = side("engine", name, "--documents", str(documents), "--ranks", str(ranks))
            numbers = f"{peaks['before']:.0f} | {peaks['peak']:.0f}"
            print(f"| {WORKS[name].label} | {documents} | {ranks} | {numbers} |", flush=True)
        return
    head = "work | documents x ranks | HFLM + PEFT, s | aurac, s | ratio | answers | peak, GiB"
    print(f"| {head} |", f"|{'---|' * 7}", sep="\n", flush=True)
    for name in args.works.split(","):
        print(row(name, args), flush=True)


if __name__ == "__main__":
    main()
