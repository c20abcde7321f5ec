"""`aurac compare`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import (
    as_table,
    command,
    options,
    pairs,
    print_json,
    print_result,
    print_text,
    repeated,
    small_names,
)
from aurac.errors import UsageError
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.records.run import Failure, StoredRun

_OPTIONS = options(
    """
    What is evaluated
    --tasks -t: Task names, comma-separated: bundled or any of lm-eval's; mmlu_* takes all of that
        form.
    --limit -L <NUMBER>: Only the first so many documents of each task, or a share such as 0.1
        (0: all). Default: 100 of a bundled task, all of any other.
    --metric
    --data
    --include-path
    --base: Base model: packaged name, hub id or folder. Default: what the adapters record.
    --group
    --cluster: TASK=FIELD of its documents: those with the same value share a passage.
    --reference <ADAPTER>: Compare all others with this adapter alone.
    --margin <FRACTION> FLOAT: The loss that is tolerable, such as 0.02: which rank to ship.

    Prompts
    --num-fewshot
    --fewshot stock|fixed [stock]: Draw examples as lm-eval does, or one fixed header for all
        documents.
    --apply-chat-template --chat-template FLAG: Put prompts through the tokenizer's chat template.
    --tokenizer <base|adapter|FOLDER>: What prompts go through. Default: the adapters' own where
        they come with one, else the base's.
    --system-instruction <TEXT>: Before everything else in each prompt.
    --fewshot-as-multiturn: With a chat template: each example as turns of its own (the default), or
        false.
    --gen-kwargs <NAME=VALUE,…>: Settings of generation beside the task's own: max_gen_toks=64,
        do_sample=true,temperature=0.7, …
    --seed <NUMBER> INTEGER>=0 [1234]: Of the few-shot sampling.

    Truncation
    --ranks [pow2]: pow2, all, or ranks such as 1,2,4; the trained rank is always evaluated.
    --basis <auto|prefix|svd>: One or more. auto, the default: svd of an adapter that was not
        trained nested, the prefix of one that was.
    --rescale <rule|keep|trained|fit>: One or more. Default: each adapter's own.

    Hardware
    --device
    --dtype auto|float32|bfloat16|float16 [auto]: Of the base and the adapters.
    --batch-size -b <NUMBER>: Most sequences in one forward pass; auto, the default, goes by tokens.
    --max-length <TOKENS> INTEGER>=1: Longest input; a longer one loses its beginning. Default: the
        model's.
    --device-map: Spread a base larger than one device (accelerate): auto, balanced, sequential, or
        JSON such as {"": "cpu"}.
    --trust-remote-code FLAG: Let the base model run its own code.

    The run
    --out --output-path -o: Run folder. Default: runs/<tasks>-<hash>; the same command goes on in
        it.
    --dry-run FLAG: Only list the cells. Nothing is computed or fetched.
    --details FLAG: Print the linear axis and the weights of the ranks, too.
    --json: Print the frames instead of tables.
    --ray <local|ADDRESS>: Compute on a Ray cluster (aurac[ray]).

    Who answers
    --model -M <NAME> [hf]: hf is aurac's engine; hflm, local-completions, vllm and others are
        lm-eval's models.
    --model-args -a <NAME=VALUE,…>: As lm-eval has them.
    """,
    reference={"multiple": False},
    cluster=repeated(lambda values: pairs(values, "--cluster", "TASK=FIELD")),
    fewshot_as_multiturn={"type": bool, "is_flag": False, "flag_value": True, "metavar": "[BOOL]"},
    gen_kwargs={"multiple": True},
    basis=repeated(small_names),
    rescale=repeated(small_names),
    model_args={"multiple": True},
    out={"type": click.Path()},
)
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@command(
    short="tasks limit data metric base margin num-fewshot apply-chat-template ranks basis device "
    "batch-size out dry-run json",
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed (the same command tries them "
    "again), 130 interrupted.",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...")
@_OPTIONS
def compare(
    checkpoints: tuple[str, ...],
    tasks: list[str],
    *,
    as_json: bool,
    dry_run: bool,
    details: bool,
    groups: dict[str, list[str]],
    **words: Any,
) -> int:
    """Evaluate adapters at every rank on tasks, and integrate the curves into AURAC.

    \b
    aurac compare my_adapter --tasks gsm8k --margin 0.02
    aurac compare ckpt_a ckpt_b --tasks gsm8k
    aurac compare ckpt_a "lora per rank=runs/lora_r{1,2,4,8}" --tasks gsm8k
    aurac compare ckpt_a --tasks gsm8k,arc_easy --data gsm8k=FOLDER --limit 200
    aurac compare ckpt_a --tasks gsm8k --basis prefix,svd --rescale rule,keep
    """  # noqa: D301
    if not checkpoints or not tasks:
        missing = "adapters" if not checkpoints else "--tasks"
        raise UsageError(f"compare needs {missing}: aurac compare CKPT... --tasks TASK,TASK")
    settings = Settings.of(checkpoints, tasks, group=groups, **words)
    if dry_run:
        return _show_dry_run(settings, as_json=as_json)
    if sys.stderr.isatty():  # many seconds pass before the next line
        click.echo("loading libraries, tasks and adapters …", err=True)
    from aurac.runs.compare import run

    done = run(settings, progress=True, command=shlex.join(["aurac", *sys.argv[1:]]))
    _show(done, settings, as_json=as_json, details=details)
    return 3 if done.failures else 0


def _show(done: StoredRun, settings: Settings, *, as_json: bool, details: bool) -> None:
    """Print the answer, or the frames as JSON."""
    from aurac.analysis import analyse
    from aurac.runs.compare import question_of

    for failure in done.failures:
        print_text(f"failed: {_place(failure)}: {failure.reason}", error=True)
    if not done.curves:
        return
    analysis = analyse(done.curves, question_of(settings, done))
    if as_json:
        frames = ("scores", "points", "pairs", "rank_pairs", "recommended")
        print_json({name: analysis.records(name) for name in frames})
        return
    from aurac import show
    from aurac.terminal import stdout_console

    width = stdout_console().width
    print_text(show.screen(analysis, done, width=width, details=details))
    click.echo(f"report: {done.folder / 'report.html'}")


def _place(failure: Failure) -> str:
    if failure.adapter is None:
        return f"the base on {failure.task}"
    cut = f"{failure.basis} · {failure.rescale}"
    return f"{failure.adapter} ({cut}) at rank {failure.rank} on {failure.task}"


def _show_dry_run(settings: Settings, *, as_json: bool) -> int:
    """Print what `compare` would do; nothing is fetched."""
    with _offline():
        from aurac.runs.compare import dry_run

        plan = dry_run(settings)
    names = ("task", "adapter", "basis", "rescale", "rank", "examples", "missing")
    cells = [dict(zip(names, cell, strict=True)) for cell in plan.cells]
    left = sum(bool(cell["missing"]) for cell in cells)
    rows = [
        [cell["task"], cell["adapter"] or "base", *(cell[name] or "–" for name in names[2:4])]
        + [str(cell[name]) for name in names[4:]]
        for cell in cells
    ]
    text = as_table(list(names), [list(map(str, row)) for row in rows])
    lines = [text, "", f"{left} of {len(cells)} cells to compute in {plan.folder}"]
    print_result({"folder": str(plan.folder), "cells": cells}, "\n".join(lines), as_json=as_json)
    return 0


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """No library fetches anything; what the environment said before holds again afterwards."""
    switched = {name: "1" for name in _OFFLINE if name not in os.environ}
    os.environ.update(switched)
    try:
        yield
    finally:
        for name in switched:
            os.environ.pop(name, None)
