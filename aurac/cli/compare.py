"""`aurac compare`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import parse_groups
from aurac.cli._lm_eval import (
    LmEvalCommand,
    fewshot_seed,
    lm_eval_options,
    number_of_documents,
    number_of_sequences,
)
from aurac.cli.options import (
    checkpoint_options,
    complete_tasks,
    folders,
    names,
    option_group,
    pairs,
    parsed,
    repeated,
    task_names,
)
from aurac.errors import UsageError
from aurac.runs.settings import parse_device_map, parse_shard
from aurac.tasks.metrics import parse_metrics
from aurac.tasks.options import parse_gen_kwargs, parse_pass_at

if TYPE_CHECKING:
    from aurac.runs.finished import Request
    from aurac.runs.sequential_plan import Until

_WHAT = option_group(
    "What is evaluated",
    repeated(
        "--tasks",
        "-t",
        parse=task_names,
        shell_complete=complete_tasks,
        help="Task names, comma-separated: bundled or any of lm-eval's; mmlu_* takes all of that "
        "form.",
    ),
    click.option(
        "--limit",
        "-L",
        type=number_of_documents,
        metavar="NUMBER",
        help="Only the first so many documents of each task, or a share such as 0.1 (0: all). "
        "Default: 100 of a bundled task, all of any other.",
    ),
    click.option(
        "--split",
        type=click.Choice(["test", "validation"]),
        help="Which split is evaluated. Default: the one lm-eval takes.",
    ),
    repeated(
        "--metric",
        parse=parse_metrics,
        help="TASK=NAME,FILTER or NAME,FILTER: what accuracy means.",
    ),
    repeated(
        "--data",
        parse=folders,
        help="TASK=FOLDER with local splits (.jsonl[.gz], .json, .parquet, .csv).",
    ),
    click.option(
        "--include-path",
        type=click.Path(exists=True, file_okay=False),
        help="A folder with further tasks, as lm-eval's YAML.",
    ),
    click.option(
        "--base",
        help="Base model: packaged name, hub id or folder. Default: what the adapters record.",
    ),
    repeated(
        "--group",
        "groups",
        parse=parse_groups,
        help="NAME=ADAPTER,ADAPTER: training seeds of one recipe, compared as one.",
    ),
    repeated(
        "--cluster",
        parse=lambda values: pairs(values, "--cluster"),
        help="TASK=FIELD of its documents: those with the same value share a passage.",
    ),
)
_EARLY = option_group(
    "Stopping early",
    click.option(
        "--until",
        metavar="decided|width=W",
        help="Evaluate a random order of all documents until every pair is decided, or until the "
        "interval of every AURAC is W wide.",
    ),
    click.option(
        "--margin",
        type=float,
        help="A fraction, such as 0.02. With --until decided: is each further adapter at most this "
        "much worse than the first? With --ranks auto: see there.",
    ),
    click.option(
        "--budget",
        help="With --until: most documents of each task, such as 500, or a time such as 30min.",
    ),
    click.option(
        "--anytime",
        is_flag=True,
        help="With --until decided: confidence sequences, which hold whenever you look and need no "
        "plan, but more documents.",
    ),
)
_PROMPTS = option_group(
    "Prompts",
    click.option(
        "--num-fewshot",
        "-f",
        type=click.IntRange(min=0),
        help="Examples in each prompt. Default: the task's own number.",
    ),
    click.option(
        "--fewshot",
        type=click.Choice(["stock", "fixed"]),
        default="stock",
        show_default=True,
        help="Draw examples as lm-eval does, or one fixed header for all documents.",
    ),
    click.option(
        "--chat-template",
        "--apply-chat-template",
        is_flag=True,
        help="Put prompts through the tokenizer's chat template.",
    ),
    click.option(
        "--tokenizer",
        metavar="base|adapter|FOLDER",
        help="What prompts go through. Default: the adapters' own where they come with one, else "
        "the base's.",
    ),
    click.option(
        "--system-instruction", metavar="TEXT", help="Before everything else in each prompt."
    ),
    click.option(
        "--fewshot-as-multiturn",
        type=bool,
        is_flag=False,
        flag_value=True,
        metavar="[BOOL]",
        help="With a chat template: each example as turns of its own (the default), or false.",
    ),
    repeated(
        "--gen-kwargs",
        parse=parse_gen_kwargs,
        metavar="NAME=VALUE,…",
        help="Settings of generation beside the task's own: max_gen_toks=64, "
        "do_sample=true,temperature=0.7, …",
    ),
    click.option(
        "--repeats",
        type=click.IntRange(min=1),
        metavar="NUMBER",
        help="So many sampled answers for each document, each with a seed of its own; the score is "
        "their mean. Default: 1.",
    ),
    repeated(
        "--pass-at",
        parse=parse_pass_at,
        metavar="K,…",
        help="With --repeats: further curves of the chance that one of K samples is right. pass@1 "
        "is the score itself.",
    ),
    click.option(
        "--fewshot-seeds",
        type=click.IntRange(min=1),
        metavar="NUMBER",
        default=1,
        show_default=True,
        help="Draw the examples with so many seeds, from --seed on; scores are means over them.",
    ),
    click.option(
        "--seed",
        type=fewshot_seed,
        metavar="NUMBER",
        default=1234,
        show_default=True,
        help="Of the few-shot sampling.",
    ),
)
_TRUNCATION = option_group(
    "Truncation",
    click.option(
        "--ranks",
        default="pow2",
        show_default=True,
        help="pow2, all, such as 1,2,4, or auto: pow2, then ranks between them where a curve may "
        "lie more than --margin (0.02) from a straight line.",
    ),
    repeated(
        "--basis",
        default=["prefix"],
        parse=names,
        show_default=True,
        help="One or more of prefix, svd and energy (the parameters of a uniform rank, spent where "
        "the singular values are largest); the first is the one compared.",
    ),
    repeated(
        "--rescale",
        parse=lambda values: names(values) or None,
        help="rule, keep, trained, fit; several may be given. Default: each adapter's own.",
    ),
)
_HARDWARE = option_group(
    "Hardware",
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Of the base and the adapters.",
    ),
    click.option(
        "--batch-size",
        "-b",
        type=number_of_sequences,
        metavar="NUMBER",
        help="Most sequences in one forward pass; auto, the default, goes by tokens.",
    ),
    click.option(
        "--batch-tokens", type=click.IntRange(min=1), help="Most tokens in one forward pass."
    ),
    click.option(
        "--device-map",
        callback=parsed(parse_device_map),
        help="Spread a base larger than one device (accelerate): auto, balanced, sequential, or "
        'JSON such as {"": "cpu"}.',
    ),
    click.option("--trust-remote-code", is_flag=True, help="Let the base model run its own code."),
)
_RUN = option_group(
    "The run",
    click.option(
        "--out",
        "--output-path",
        "-o",
        type=click.Path(),
        help="Run folder. Default: runs/<tasks>-<hash>; the same command goes on in it.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only say what would run: cells, time, memory, downloads. Nothing is loaded or "
        "fetched.",
    ),
    click.option(
        "--status",
        is_flag=True,
        help="Only say what is done, running, failed and left in --out, with the time left.",
    ),
    click.option("--retry-failed", is_flag=True, help="Try cells again that failed before."),
    click.option(
        "--profile", is_flag=True, help="Write profile.json: where the time went, by kind of work."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables."),
)
_MACHINES = option_group(
    "Many processes and machines",
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes. Default: one for each CUDA device, else one; ray: as many as fit.",
    ),
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Processes of this machine, or a Ray cluster (aurac[ray]).",
    ),
    click.option("--address", help="Of the Ray cluster, such as auto or ray://HOST:10001."),
    click.option(
        "--shard",
        callback=parsed(parse_shard),
        help="NUMBER/OF: compute this share only, for job arrays; gather without it.",
    ),
)
_LM_EVAL = option_group(
    "As lm-eval spells it",
    click.option("--model", "-M", expose_value=False, help="hf: aurac computes in transformers."),
    click.option(
        "--model-args",
        "-a",
        multiple=True,
        expose_value=False,
        help="pretrained=BASE,peft=CKPT,dtype=…: the same as CKPT, --base and --dtype. Underscores "
        "and hyphens are alike in every option.",
    ),
)


@click.command(
    cls=LmEvalCommand,
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed (the rest are kept), "
    "130 interrupted.",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...")
@_WHAT
@_EARLY
@_PROMPTS
@_TRUNCATION
@_HARDWARE
@_RUN
@_MACHINES
@checkpoint_options
@_LM_EVAL
@lm_eval_options
def compare(
    checkpoints: tuple[str, ...],
    tasks: list[str],
    out: str | None,
    *,
    as_json: bool,
    status: bool,
    dry_run: bool,
    until: str | None,
    margin: float | None,
    budget: str | None,
    anytime: bool,
    **options: Any,
) -> int:
    """Evaluate adapters at every rank on tasks, and integrate the curves into AURAC.

    \b
    aurac compare ckpt_a ckpt_b --tasks gsm8k
    aurac compare ckpt_a "lora per rank=runs/lora_r{1,2,4,8}" --tasks gsm8k
    aurac compare ckpt_a --tasks gsm8k,arc_easy --data gsm8k=FOLDER --limit 200
    aurac compare ckpt_a --tasks aurac_word_problems --basis prefix,svd --rescale rule,keep
    aurac compare ckpt_a ckpt_b --tasks gsm8k --until decided
    """  # noqa: D301
    if status:
        from aurac.cli.runs import show_status

        if out is None:
            raise UsageError("--status without --out", fix="give the run folder with --out FOLDER")
        return show_status(out, as_json)
    if not checkpoints or not tasks:
        missing = "adapters" if not checkpoints else "--tasks"
        raise UsageError(f"no {missing}", expected="aurac compare CKPT... --tasks TASK,TASK")
    from aurac.cli._compare_text import show_dry_run
    from aurac.runs.finished import Request

    command = shlex.join(["aurac", *sys.argv[1:]])
    early, auto = None, options["ranks"] == "auto"
    if until is not None:
        from aurac.runs.sequential_plan import Until

        early = Until.of(until, margin=margin, budget=budget, anytime=anytime)
    elif budget is not None or anytime or (margin is not None and not auto):
        raise UsageError(
            "--margin, --budget or --anytime without --until",
            fix="give --until decided, or --margin with --ranks auto",
        )
    elif auto:
        options["margin"] = margin
    if dry_run:
        options |= {"out": out, "command": command, "until": early}
        return show_dry_run(checkpoints, tasks, as_json=as_json, **options)
    return evaluate(Request.of(checkpoints, tasks, out, **options), command, early, as_json=as_json)


def evaluate(request: Request, command: str, until: Until | None, *, as_json: bool) -> int:
    """Compare as far as the question needs, and print the results.

    A finished run is recognised before anything heavy is loaded.
    """
    from aurac.cli._compare_text import show_comparison
    from aurac.runs.finished import recall
    from aurac.tasks.index import check_names

    done = recall(request) if until is None else None
    if done is not None:
        click.echo(f"0 of {done.cells} cells to compute, {done.cells} already there", err=True)
    else:
        check_names(request.tasks, request.settings.task.include_path)
        if until is None:
            from aurac.runs.compare import run

            done = run(request, progress=True, command=command)
        else:
            from aurac.runs.sequential_run import run_until

            done = run_until(request, until, progress=True, command=command)
    show_comparison(done, as_json=as_json)
    return 3 if done.failures else 0
