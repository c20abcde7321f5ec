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
    COUNT,
    FLAG,
    FROM_0,
    NUMBER,
    checkpoint_options,
    choice,
    complete_tasks,
    folders,
    names,
    options,
    pairs,
    parsed,
    repeated,
    task_names,
)
from aurac.curves.metrics import parse_metrics
from aurac.errors import UsageError
from aurac.runs.settings import parse_device_map, parse_shard
from aurac.tasks.options import parse_gen_kwargs, parse_pass_at

if TYPE_CHECKING:
    from aurac.runs.finished import Request
    from aurac.runs.sequential_plan import Until

_OPTIONS = options(
    """
    What is evaluated
    --tasks -t: Task names, comma-separated: bundled or any of lm-eval's; mmlu_* takes all of that
        form.
    --limit -L: Only the first so many documents of each task, or a share such as 0.1 (0: all).
        Default: 100 of a bundled task, all of any other.
    --split: Which split is evaluated. Default: the one lm-eval takes.
    --metric: [TASK=]NAME[,FILTER]: what accuracy means. Without TASK it is that of all tasks that
        have it.
    --data: TASK=FOLDER with local splits (.jsonl[.gz], .json, .parquet, .csv).
    --include-path: A folder with further tasks, as lm-eval's YAML.
    --base: Base model: packaged name, hub id or folder. Default: what the adapters record.
    --group groups: NAME=ADAPTER,ADAPTER: training seeds of one recipe, compared as one.
    --cluster: TASK=FIELD of its documents: those with the same value share a passage.
    --primary: A,B: a primary comparison of two adapters or groups, declared before there are
        outcomes. Holm goes over these alone, and all others are exploratory.
    --reference references: The comparisons of this adapter with each other one are primary.

    Stopping early
    --until: Evaluate a random order of all documents until every pair is decided, or until the
        interval of every AURAC is W wide.
    --margin: A fraction, such as 0.02. With --until decided: is each further adapter at most this
        much worse than the first? With --ranks auto: see there.
    --budget: With --until: most documents of each task, such as 500, or a time such as 30min.
    --anytime: With --until decided: confidence sequences, which hold whenever you look and need no
        plan, but more documents.

    Prompts
    --num-fewshot -f: Examples in each prompt. Default: the task's own number.
    --fewshot: Draw examples as lm-eval does, or one fixed header for all documents.
    --chat-template --apply-chat-template: Put prompts through the tokenizer's chat template.
    --tokenizer: What prompts go through. Default: the adapters' own where they come with one, else
        the base's.
    --system-instruction: Before everything else in each prompt.
    --fewshot-as-multiturn: With a chat template: each example as turns of its own (the default), or
        false.
    --gen-kwargs: Settings of generation beside the task's own: max_gen_toks=64,
        do_sample=true,temperature=0.7, …
    --repeats: So many sampled answers for each document, each with a seed of its own; the score is
        their mean. Default: 1.
    --pass-at: With --repeats: further curves of the chance that one of K samples is right. pass@1
        is the score itself.
    --fewshot-seeds: Draw the examples with so many seeds, from --seed on; scores are means over
        them.
    --seed: Of the few-shot sampling.

    Truncation
    --ranks: pow2, all, such as 1,2,4, or auto: pow2, then ranks between them where a curve may lie
        more than --margin (0.02) from a straight line.
    --basis: One or more of prefix, svd and energy (the parameters of a uniform rank, spent where
        the singular values are largest); the first is the one compared. auto, the default: svd,
        with the prefix as published beside it; of nested training prefix.
    --rescale: rule, keep, trained, fit; several may be given. Default: each adapter's own.

    Hardware
    --device: cpu, cuda, cuda:N, mps.
    --dtype: Of the base and the adapters.
    --batch-size -b: Most sequences in one forward pass; auto, the default, goes by tokens.
    --batch-tokens: Most tokens in one forward pass.
    --device-map: Spread a base larger than one device (accelerate): auto, balanced, sequential, or
        JSON such as {"": "cpu"}.
    --trust-remote-code: Let the base model run its own code.

    The run
    --out --output-path -o: Run folder. Default: runs/<tasks>-<hash>; the same command goes on in
        it.
    --dry-run: Only say what would run: cells, time, memory, downloads. Nothing is loaded or
        fetched.
    --status: Only say what is done, running, failed and left in --out, with the time left.
    --retry-failed: Try cells again that failed before.
    --profile: Write profile.json: where the time went, by kind of work.
    --json as_json: Print results.json instead of tables.

    Many processes and machines
    --workers: Processes. Default: one for each CUDA device, else one; ray: as many as fit.
    --executor: Processes of this machine, or a Ray cluster (aurac[ray]).
    --address: Of the Ray cluster, such as auto or ray://HOST:10001.
    --shard: NUMBER/OF: compute this share only, for job arrays; gather without it.
    """,
    tasks=repeated(task_names, shell_complete=complete_tasks),
    limit={"type": number_of_documents, "metavar": "NUMBER"},
    split=choice("test", "validation"),
    metric=repeated(parse_metrics),
    data=repeated(folders),
    include_path={"type": click.Path(exists=True, file_okay=False)},
    groups=repeated(parse_groups),
    cluster=repeated(lambda values: pairs(values, "--cluster")),
    primary={"multiple": True, "metavar": "A,B"},
    references={"multiple": True, "metavar": "ADAPTER"},
    until={"metavar": "decided|width=W"},
    margin=NUMBER,
    num_fewshot=FROM_0,
    fewshot=choice("stock", "fixed", default="stock"),
    tokenizer={"metavar": "base|adapter|FOLDER"},
    system_instruction={"metavar": "TEXT"},
    fewshot_as_multiturn={"type": bool, "is_flag": False, "flag_value": True, "metavar": "[BOOL]"},
    gen_kwargs=repeated(parse_gen_kwargs, metavar="NAME=VALUE,…"),
    repeats={**COUNT, "metavar": "NUMBER"},
    pass_at=repeated(parse_pass_at, metavar="K,…"),
    fewshot_seeds={**COUNT, "metavar": "NUMBER", "default": 1},
    seed={"type": fewshot_seed, "metavar": "NUMBER", "default": 1234},
    ranks={"default": "pow2"},
    basis=repeated(names, default=["auto"]),
    rescale=repeated(lambda values: names(values) or None),
    device={"default": "auto"},
    dtype=choice("auto", "float32", "bfloat16", "float16", default="auto"),
    batch_size={"type": number_of_sequences, "metavar": "NUMBER"},
    batch_tokens=COUNT,
    device_map=parsed(parse_device_map),
    out={"type": click.Path()},
    workers=COUNT,
    executor=choice("local", "ray", default="local"),
    shard=parsed(parse_shard),
    **dict.fromkeys(("anytime", "chat_template", "trust_remote_code", "dry_run"), FLAG),
    **dict.fromkeys(("status", "retry_failed", "profile", "as_json"), FLAG),
)
_LM_EVAL = options(
    """
    As lm-eval spells it
    --model -M: hf: aurac computes in transformers.
    --model-args -a: pretrained=BASE,peft=CKPT,dtype=…: the same as CKPT, --base and --dtype.
        Underscores and hyphens are alike in every option.
    """,
    model={"expose_value": False},
    model_args={"multiple": True, "expose_value": False},
)


@click.command(
    cls=LmEvalCommand,
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed (the rest are kept), "
    "130 interrupted.",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...")
@_OPTIONS
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
    primary: tuple[str, ...],
    references: tuple[str, ...],
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
    from aurac.analysis.primary import parse_pairs
    from aurac.cli._compare_text import show_dry_run
    from aurac.runs.finished import Request

    options["primary"] = tuple(parse_pairs(primary, references))
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
