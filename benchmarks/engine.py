"""The rank sweep's speed beside lm-eval's own loop (``HFLM`` + PEFT); writes a Markdown table.

    python benchmarks/engine.py --data arc_easy=FOLDER --data gsm8k=FOLDER --out FILE.md

Both sides evaluate the same unmerged LoRA adapter (random, R = 16, all projections) on the same
prompts. Each side runs in a process of its own, one after the other, with the same threads:
``HFLM`` at every batch size of ``--batch-sizes`` (its best one counts), ours with its defaults.
Loading the model and building the prompts is outside the times on both sides; laying the prompts
out is inside ours, and so is counting. ``HFLM`` is measured once at rank 16, which stands for its
other ranks, and once at rank 0, the base, where the sweep has it; our sweep is run whole.

``--memory`` prints instead how the peak of our process's memory grows with documents, ranks and
sweeps (an adapter more is a sweep more and its factors).

``--busy`` prints instead the times of one rank on the machine as it is and beside one busy process
of the lowest priority: ``HFLM`` as lm-eval starts it, ``HFLM`` with ``OMP_WAIT_POLICY=PASSIVE``,
and ours, for which the command line sets that.

``--clock cpu`` counts processor seconds instead of wall seconds: on a machine that others use, with
one thread, only those can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.models.device import SPINNING, WAIT_POLICY, share_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    name: str = ""
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
    f"{name}-{short}": replace(work, name=f"{name}-{short}", dtype=dtype)
    for name, work in _WORKS.items()
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--works", default=",".join(WORKS), help="rows, comma-separated")
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1", help="base model")
    parser.add_argument("--data", action="append", default=[], help="TASK=FOLDER")
    parser.add_argument("--documents", type=int, help="at most so many documents")
    parser.add_argument("--ranks", type=int, help="at most so many ranks")
    parser.add_argument("--batch-sizes", help="of HFLM, instead of each row's own")
    parser.add_argument("--repeats", type=int, default=3, help="of our sweep")
    parser.add_argument("--loop-repeats", type=int, default=1, help="of HFLM at each batch size")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--busy", action="store_true", help="measure beside a busy process instead")
    parser.add_argument("--sweeps", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("engine", "hflm", "memory"), help=argparse.SUPPRESS)
    return parser.parse_args()


def ranks_of(count: int) -> list[int]:
    """So many ranks, 0 (the base) first, then doubling: 0, 1, 2, 4, 8, 16."""
    return [0, 1, 2, 4, 8, 16][-count:]


def prepare(
    work: Work, args: argparse.Namespace
) -> tuple[Any, Any, list[Any], Callable[[int], None]]:
    """The model with a random adapter, its tokenizer, the requests, and the rank switch."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from aurac.models.base import load_base
    from aurac.tasks.lm_eval import build_tasks
    from aurac.tasks.options import TaskOptions

    if args.threads:
        torch.set_num_threads(args.threads)
    base = load_base(args.base, dtype=work.dtype)
    data = {name: Path(folder) for name, _, folder in (d.partition("=") for d in args.data)}
    options = TaskOptions(
        num_fewshot=work.shots,
        limit=args.documents if args.memory else min(work.documents, args.documents or 10**9),
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
    return base.model, base.tokenizer, list(task.leaves[0].instances), set_rank


def run_hflm(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one rank at the best batch size, those of the base, and the answers."""
    begun = time.perf_counter()
    from lm_eval.models.huggingface import HFLM

    model, tokenizer, instances, set_rank = prepare(work, args)
    start_up = time.perf_counter() - begun
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    set_rank(RANK)
    seconds: dict[int, list[float]] = {}
    answers: list[Any] = []
    for size in map(int, (args.batch_sizes or work.batch_sizes).split(",")):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        ask = getattr(lm, instances[0].request_type)
        ask(instances[:2], disable_tqdm=True)
        for _ in range(args.loop_repeats):
            start = clock()
            answers = ask(instances, disable_tqdm=True)
            seconds.setdefault(size, []).append(clock() - start)
    best = min(seconds, key=lambda size: statistics.median(seconds[size]))
    base = 0.0
    if 0 in ranks_of(min(work.ranks, args.ranks or work.ranks)):
        set_rank(0)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=best)
        start = clock()
        getattr(lm, instances[0].request_type)(instances, disable_tqdm=True)
        base = clock() - start
    return {
        "best": best,
        "seconds": seconds[best],
        "base": base,
        "answers": answers,
        "start": start_up,
    }


def engine_side(
    work: Work, args: argparse.Namespace
) -> tuple[Any, list[Any], Callable[[], Any], Callable[[Any, int], list[Any]]]:
    """The model, the requests, what lays them out, and what answers a layout at a rank."""
    from aurac.engine import EngineOptions
    from aurac.engine.inference import generate, loglikelihoods
    from aurac.engine.running import laid_out
    from aurac.engine.tokens import GenerationLayout, GenerationRequest, ScoringLayout

    model, tokenizer, instances, set_rank = prepare(work, args)
    options = EngineOptions()
    scores = instances[0].request_type == "loglikelihood"
    kind: Any = ScoringLayout if scores else GenerationLayout
    answer: Any = loglikelihoods if scores else generate
    asked = [i.args if scores else GenerationRequest.from_kwargs(*i.args) for i in instances]

    def layout() -> Any:
        return laid_out(kind, model, tokenizer, asked, options)

    def at_rank(requests: Any, rank: int) -> list[Any]:
        set_rank(rank)
        answers: list[Any] = answer(model, tokenizer, requests, options=options)
        return answers

    return model, instances, layout, at_rank


def run_engine(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each whole sweep and of a second adapter's, the answers, counts, GEMM peak."""
    begun = time.perf_counter()
    from aurac.engine.counts import recording
    from aurac.engine.probe import probe
    from aurac.engine.running import evaluating

    model, instances, layout, at_rank = engine_side(work, args)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    with evaluating(model):
        probe(model)
    start_up = time.perf_counter() - begun
    seconds, second, answers, counts = [], [], [], {}
    ranks = ranks_of(min(work.ranks, args.ranks or work.ranks))
    for _ in range(args.repeats):
        start = clock()
        with recording() as record:
            requests, spent = layout(), []
            for rank in ranks:
                begin = clock()
                answers = at_rank(requests, rank)
                spent.append(clock() - begin)
        seconds.append(clock() - start)
        # A second adapter needs neither the layout nor the base again.
        second.append(sum(s for s, rank in zip(spent, ranks, strict=True) if rank))
        counts = msgspec.structs.asdict(record.counts())
    return {
        "seconds": seconds,
        "second": second,
        "answers": answers,
        "counts": counts,
        "peak": gemm_peak(model.dtype, clock),
        "memory": resident() / 2**10,
        "start": start_up,
        "documents": [instance.doc_id for instance in instances],
    }


def run_memory(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory in MiB: with the model, the requests and the adapter, and at the end."""
    _, _, layout, at_rank = engine_side(work, args)
    before, requests = resident(), layout()
    for _ in range(args.sweeps):
        for rank in ranks_of(args.ranks or work.ranks):
            at_rank(requests, rank)
    return {"before": before, "peak": resident()}


def resident() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


MEMORY = (
    ("arc-0-fp32", 125, 1, 1),
    ("arc-0-fp32", 500, 1, 1),
    ("arc-0-fp32", 1000, 1, 1),
    ("arc-0-bf16", 125, 1, 1),
    ("arc-0-bf16", 500, 1, 1),
    ("arc-0-bf16", 2000, 1, 1),
    ("arc-0-bf16", 500, 3, 2),
)


def memory_table() -> list[str]:
    """Peaks by documents, ranks and sweeps."""
    lines = [
        "| work | documents | ranks | sweeps | with model and requests, MiB | peak, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, documents, ranks, sweeps in MEMORY:
        options = {"--documents": documents, "--ranks": ranks, "--sweeps": sweeps}
        words = [str(part) for pair in options.items() for part in pair]
        peaks = side("memory", WORKS[name], words)
        numbers = f"{peaks['before']:.0f} | {peaks['peak']:.0f}"
        lines.append(
            shown(f"| {WORKS[name].label} | {documents} | {ranks} | {sweeps} | {numbers} |")
        )
    return lines


def shown(line: str) -> str:
    """A row, also on standard error as soon as it is measured."""
    print(line, file=sys.stderr, flush=True)
    return line


def gemm_peak(dtype: Any, clock: Callable[[], float]) -> float:
    """GFLOP/s of the best of a few products of this model's own shape."""
    import torch

    a, b = torch.randn(1024, 1536, dtype=dtype), torch.randn(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(30):
        start = clock()
        torch.nn.functional.linear(a, b)
        best = min(best, clock() - start)
    return 2 * 1024 * 1536 * 576 / best / 1e9


@contextlib.contextmanager
def one_busy_process() -> Iterator[None]:
    """A process of the lowest priority that computes without end, on whichever core is free."""
    command = ["nice", "-n", "19", sys.executable, "-c", "while True: pass"]
    busy = subprocess.Popen(command)
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def busy_table(works: Sequence[Work]) -> list[str]:
    """Seconds of one rank, alone and beside one busy process, by how threads wait."""
    lines = [
        (
            "| work | documents | condition "
            "| HFLM as lm-eval starts it, s | HFLM, PASSIVE, s | aurac, s |"
        ),
        "|---|---|---|---|---|---|",
    ]
    plain = {name: value for name, value in os.environ.items() if name not in SPINNING}
    passive = {**plain, WAIT_POLICY: "PASSIVE"}
    for work in works:
        for condition in ("as it is", "beside one busy process"):
            with one_busy_process() if condition != "as it is" else contextlib.nullcontext():
                sides = [
                    side(name, work, ["--ranks", "1"], environment)
                    for name, environment in (("hflm", plain), ("hflm", passive), ("engine", plain))
                ]
            seconds = [f"{statistics.median(one['seconds']):.1f}" for one in sides]
            documents = len(set(sides[-1]["documents"]))
            row = [work.label, str(documents), condition, *seconds]
            lines.append(shown(f"| {' | '.join(row)} |"))
    return lines


def side(
    name: str, work: Work, more: Sequence[str] = (), environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run one side in a process of its own."""
    own = ["--side", name, "--works", work.name, *more]
    command = [sys.executable, __file__, *sys.argv[1:], *own]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def agreement(mine: list[Any], theirs: list[Any], documents: list[int]) -> str:
    """How far the answers agree: texts, or log-likelihoods and the picks that they make."""
    if isinstance(mine[0], str):
        return f"{sum(a == b for a, b in zip(mine, theirs, strict=True))}/{len(mine)} texts"
    gap = max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True))
    picks = []
    for scores in (mine, theirs):
        best: dict[int, int] = {}
        for place, document in enumerate(documents):
            if document not in best or scores[place][0] > scores[best[document]][0]:
                best[document] = place
        picks.append(best)
    apart = [
        abs(mine[picks[0][document]][0] - mine[picks[1][document]][0])
        for document in picks[0]
        if picks[0][document] != picks[1][document]
    ]
    told = f"log-likelihoods within {gap:.1e}, {len(apart)}/{len(picks[0])} picks differ"
    return f"{told}, by up to {max(apart):.2f}" if apart else told


def row(work: Work, args: argparse.Namespace) -> tuple[str, str]:
    """Measure one row of the table, and say what starting cost on both sides."""
    theirs, mine = side("hflm", work), side("engine", work)
    ranks = min(work.ranks, args.ranks or work.ranks)
    adapted = ranks - 1 if theirs["base"] else ranks
    loop = statistics.median(theirs["seconds"]) * adapted + theirs["base"]
    ours = statistics.median(mine["seconds"])
    spread = f"{min(mine['seconds']):.1f}-{max(mine['seconds']):.1f}"
    counts = mine["counts"]
    ratio = f"{counts['computed_tokens'] / counts['distinct_tokens']:.3f}"
    inside = counts["forward_seconds"] or float("nan")  # an accelerator's passes are not timed
    achieved = counts["flops"] / inside / 1e9
    other = 1 - inside / mine["seconds"][-1]
    documents = min(work.documents, args.documents or work.documents)
    cells = [
        work.label,
        f"{documents} x {ranks}",
        f"{loop:.1f} (batch {theirs['best']})",
        f"{ours:.1f} ({spread})",
        f"**{loop / ours:.1f} x**",
        ratio,
        agreement(mine["answers"], theirs["answers"], mine["documents"]),
        f"{achieved:.0f} of {mine['peak']:.0f}",
        f"{100 * max(other, 0):.1f} %",
        f"{statistics.median(mine['second']) / ours:.2f}",
        f"{mine['memory']:.1f}",
    ]
    start = f"{theirs['start']:.0f} s (HFLM), {mine['start']:.0f} s (ours, with the probe)"
    return "| " + " | ".join(cells) + " |", f"- {cells[0]}: {start}"


def main() -> None:
    """Run the table, or one side of one row."""
    args = arguments()
    works = [WORKS[name] for name in args.works.split(",")]
    sides = {"engine": run_engine, "hflm": run_hflm, "memory": run_memory}
    if args.side:
        if args.side != "hflm":
            share_cores()  # as the command line does, before torch is imported
        print(json.dumps(sides[args.side](works[0], args)))
        return
    if args.memory:
        print("\n".join(memory_table()))
        return
    if args.busy:
        print("\n".join(busy_table(works)))
        return
    import torch

    from aurac.models.device import machine, versions

    threads = args.threads or torch.get_num_threads()
    lines = [
        "# Evaluation engine beside lm-eval's `HFLM` + PEFT",
        "",
        f"Machine: {machine()}; {threads} threads; {args.clock} seconds; {versions()}.",
        (
            f"Medians of {args.repeats} sweeps of ours (spread in brackets) and of "
            f"{args.loop_repeats} runs of HFLM; {RANK}-rank adapter, unmerged."
        ),
        "",
        (
            "| work | documents x ranks | HFLM + PEFT, s | aurac, s | ratio "
            "| computed / distinct tokens | answers "
            "| GFLOP/s in the linear layers, of the GEMM peak | outside the forward "
            "| second adapter / first | peak memory, GiB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    starts = ["", "Start-up, not in the times: imports, base, adapter, prompts.", ""]
    for work in works:
        measured, start = row(work, args)
        lines.append(measured)
        starts.append(start)
        print(measured, start, sep="\n", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text("\n".join([*lines, *starts]) + "\n", encoding="utf-8")
    print("\n".join([*lines, *starts]))


if __name__ == "__main__":
    main()
