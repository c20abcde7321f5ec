"""`aurac compare`: adapters → accuracies at every rank, AURAC, differences, a report."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command

if TYPE_CHECKING:
    from aurac.runs.settings import Settings

_BATCH = "Sequences in a forward pass, at most. Default: as many as fit."
_LENGTH = "Longest input in tokens; a longer one loses its beginning. Default: the model's."


class TaskNames(click.types.StringParamType):
    """Names of tasks, separated by commas; the bundled ones are completed."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """With `a,b` typed, the rest of the last one."""
        from aurac.tasks import BUNDLED

        before, comma, last = incomplete.rpartition(",")
        names = (f"{before}{comma}{name}" for name in BUNDLED if name.startswith(last))
        return [CompletionItem(name) for name in names]

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Where names are found."""
        return "`aurac list` and `lm-eval ls tasks` list them."


@command(
    common="tasks limit base margin num-fewshot apply-chat-template gen-kwargs ranks basis device "
    "dtype out dry-run json",
    epilog="Exit codes: 0 done, 2 bad input, 3 some ranks could not be evaluated (the same command "
    "tries them again), 4 a server or vLLM does not compute an adapter, 130 interrupted.",
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
# Tasks
@click.option(
    "--tasks", "-t", type=TaskNames(), required=True, multiple=True, metavar="TASK,…",
    help="Bundled tasks, names that lm-eval knows, YAML files, or files of examples (.jsonl, …).",
)  # fmt: skip
@click.option(
    "--limit", "-L", type=float, metavar="N", help="Use the first N examples of each task; below "
    "1: that share of them; 0: all. Default: 100 of a bundled task, all of another.",
)  # fmt: skip
@shared.metric
@click.option(
    "--split", metavar="NAME", help="Evaluate this split, such as validation. Default: the task's."
)
@click.option(
    "--data", multiple=True, metavar="[TASK=]FOLDER",
    help="Folder with the task's splits as files (.jsonl, .json, .parquet, .csv).",
)  # fmt: skip
@click.option(
    "--trained-on", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="File of examples that the adapters were trained on: those of the tasks that are in it "
    "are counted.",
)  # fmt: skip
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with more tasks, as YAML files for lm-eval.",
)
@click.option("--base", help="Base model. Default: the one that the adapters record.")
@shared.group
@shared.cluster
@shared.reference
@shared.margin()
# Prompts
@click.option(
    "--num-fewshot", "-f", type=click.IntRange(0), metavar="N",
    help="Solved examples in each prompt.",
)  # fmt: skip
@click.option(
    "--fewshot", type=click.Choice(["stock", "fixed"]), default="stock", show_default=True,
    help="Draw solved examples as lm-eval does, or take the same ones for every prompt.",
)  # fmt: skip
@click.option("--apply-chat-template", is_flag=True, help="Use the tokenizer's chat template.")
@click.option(
    "--tokenizer", metavar="base|adapter|FOLDER",
    help="Whose tokenizer to use. Default: the adapters' own, if they have one.",
)  # fmt: skip
@click.option(
    "--system-instruction", metavar="TEXT", help="Instruction at the start of each prompt."
)
@click.option(
    "--fewshot-as-multiturn", type=bool, is_flag=False, flag_value=True, metavar="[BOOL]",
    help="With a chat template: make each solved example a turn of its own.",
)  # fmt: skip
@click.option(
    "--gen-kwargs", multiple=True, metavar="NAME=VALUE,…",
    help="Settings of generation, such as max_gen_toks=64.",
)  # fmt: skip
@click.option(
    "--seed", type=int, default=1234, show_default=True, help="Seed for drawing solved examples."
)
# Cuts
@click.option(
    "--ranks", default="pow2", show_default=True, metavar="pow2|all|1,2,4",
    help="Ranks to evaluate besides the trained one; pow2: 1, 2, 4, 8, …",
)  # fmt: skip
@click.option(
    "--basis", multiple=True, metavar="prefix,svd",
    help="How to cut an adapter to a rank, one way or both. Default: the best for its method.",
)  # fmt: skip
@click.option(
    "--rescale", multiple=True, metavar="rule|keep|trained|fit",
    help="Scale after the cut. Default: the best for the adapter's method.",
)  # fmt: skip
# Hardware
@shared.device
@click.option(
    "--dtype", metavar="float32|bfloat16|float16",
    help="Precision of the model. Default: the run folder's, else float32 on a CPU and bfloat16 "
    "on a GPU.",
)  # fmt: skip
@click.option("--batch-size", "-b", metavar="NUMBER|auto", help=_BATCH)
@click.option("--max-length", type=click.IntRange(1), help=_LENGTH)
@click.option("--device-map", help="Spread the base over devices: auto, balanced, … or JSON.")
@click.option("--trust-remote-code", is_flag=True, help="Let the base run its own code.")
# The run
@click.option(
    "--out", "--output-path", "-o", type=FOLDER, help="Folder of the run. Default: runs/TASKS-HASH."
)
@click.option(
    "--dry-run", is_flag=True,
    help="List what would be evaluated. Only a packaged base model may be downloaded.",
)  # fmt: skip
@shared.as_json
@shared.details
@click.option(
    "--ray", is_flag=False, flag_value="local", metavar="[local|ADDRESS]",
    help="Compute on a Ray cluster.",
)  # fmt: skip
@click.option(
    "--model", default="hf", show_default=True, metavar="[hf|hflm|vllm|local-completions|…]",
    help="Who answers: aurac's engine, lm-eval's HFLM, vLLM, a server, or what takes peft=.",
)  # fmt: skip
@click.option(
    "--model-args", "-a", multiple=True, metavar="NAME=VALUE,…", help="Settings of --model."
)
@click.option(
    "--no-check", "check", is_flag=True, flag_value=False, default=True,
    help="Do not hold a server's or vLLM's answers against the engine's before the first cell.",
)  # fmt: skip
@click.option(
    "--check-only", is_flag=True,
    help="Hold a server's or vLLM's answers at every rank against the engine's; evaluate nothing.",
)  # fmt: skip
def compare(
    checkpoints: tuple[str, ...],
    tasks: tuple[str, ...],
    dry_run: bool,
    check_only: bool,
    as_json: bool,
    details: bool,
    **words: Any,
) -> int:
    """Evaluate adapters at every rank on tasks, and say which rank to ship.

    CKPT is a folder or hub id, NAME=PATH, or one adapter for each rank, as
    lora_r{1,2,4}. The same command goes on after an interruption; with other adapters, ranks or
    examples it adds them to the run.

    \b
    aurac compare my_adapter --tasks gsm8k --margin 0.02 --out runs/gsm8k
    aurac compare ckpt_a ckpt_b --tasks gsm8k,arc_easy --limit 200
    aurac compare ckpt_a --tasks gsm8k --basis prefix,svd
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.runs.settings import Settings

    given = {name: value for name, value in words.items() if value not in (None, ())}
    folder, *more = words["data"] or ("",)
    alone = not more and ("=" not in folder or Path(folder).is_dir())
    given["data"] = (folder or {}) if alone else dict(map(shared.pair, words["data"]))
    for name in ("groups", "cluster"):
        given[name] = dict(given.get(name, ()))
    settings = Settings.of(checkpoints, tasks, **given)
    if dry_run:
        return show_cells(settings, as_json=as_json)
    if check_only:
        return show_check(settings, as_json=as_json)
    from aurac.runs.progress import Bar

    bar = Bar()
    bar.step("loading torch and lm-eval")
    with bar:
        from aurac.records.run import read_run
        from aurac.runs.compare import run

        done = run(settings, bar, shlex.join(["aurac", *sys.argv[1:]]))
    if any(curve.ranks for curve in done.curves):
        shared.print_analysis(done.analysis, done, as_json=as_json, details=details)
        click.echo(f"report: {done.folder / 'report.html'}", err=as_json)
        if read_run(done.folder).manifest.has_more_than(done.manifest):
            click.echo("the report shows all that the run folder has, which is more", err=as_json)
    else:
        shared.print_failures(done)
    return 3 if done.failures else 0


def show_cells(settings: Settings, *, as_json: bool) -> int:
    """What `compare` would compute."""
    for library in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(library, "1")
    from aurac.runs.compare import dry_run

    folder, cells = dry_run(settings)
    if as_json:
        shared.print_json({"folder": folder, "cells": cells})
        return 0
    shared.print_rows(cells)
    left = sum(bool(cell["missing"]) for cell in cells)
    click.echo(f"\n{left} of {len(cells)} cells to compute in {folder}")
    return 0


def show_check(settings: Settings, *, as_json: bool) -> int:
    """Whether a server or vLLM computes the base and the adapters at every rank."""
    from aurac.runs.backend_check import check_only
    from aurac.runs.progress import Bar

    found = []
    with Bar() as bar:
        for result in check_only(settings, bar):
            found.append(result)
            if not as_json:
                click.echo(result)
    if as_json:
        shared.print_json(found)
    return 0 if all(result.right for result in found) else 4
