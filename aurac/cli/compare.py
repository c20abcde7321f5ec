"""`aurac compare`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from aurac.cli.options import (
    as_table,
    command,
    options,
    pairs,
    parsed,
    print_json,
    print_result,
    print_text,
    repeated,
    small_names,
)
from aurac.curves.names import label_names
from aurac.errors import UsageError
from aurac.runs.settings import parse_device_map
from aurac.tasks.options import parse_gen_kwargs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from aurac.notebook import Run
    from aurac.runs.dryrun import DryRun
    from aurac.runs.settings import Request, RequestOptions

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
    --primary asked <A,B>: A primary comparison of two adapters or groups, declared before there
        are outcomes. Holm goes over these alone, and all others are exploratory.
    --reference

    Prompts
    --num-fewshot
    --fewshot stock|fixed [stock]: Draw examples as lm-eval does, or one fixed header for all
        documents.
    --chat-template --apply-chat-template FLAG: Put prompts through the tokenizer's chat template.
    --tokenizer <base|adapter|FOLDER>: What prompts go through. Default: the adapters' own where
        they come with one, else the base's.
    --system-instruction <TEXT>: Before everything else in each prompt.
    --fewshot-as-multiturn: With a chat template: each example as turns of its own (the default), or
        false.
    --gen-kwargs <NAME=VALUE,…>: Settings of generation beside the task's own: max_gen_toks=64,
        do_sample=true,temperature=0.7, …
    --seed <NUMBER> INTEGER>=0 [1234]: Of the few-shot sampling.

    Truncation
    --ranks [pow2]: pow2, all, or ranks such as 1,2,4.
    --basis <auto|prefix|svd>: One or more; the first is the one compared. auto, the default:
        svd, with the prefix as published beside it; of nested training prefix.
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
    --dry-run FLAG: Only list the cells and downloads. Nothing is loaded or fetched.
    --retry-failed
    --json: Print results.json instead of tables.

    Machines
    --executor local|ray [local]: This process, or a Ray cluster (aurac[ray]).
    --address: Of the Ray cluster, such as auto or ray://HOST:10001.
    """,
    asked={"multiple": True},
    cluster=repeated(lambda values: pairs(values, "--cluster", "TASK=FIELD")),
    fewshot_as_multiturn={"type": bool, "is_flag": False, "flag_value": True, "metavar": "[BOOL]"},
    gen_kwargs=repeated(parse_gen_kwargs),
    basis=repeated(small_names, default=["auto"]),
    rescale=repeated(lambda values: small_names(values) or None),
    device_map=parsed(parse_device_map),
    out={"type": click.Path()},
)
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@command(
    short="tasks limit data metric base num-fewshot chat-template ranks basis device "
    "batch-size out dry-run json",
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed (the rest are kept), "
    "130 interrupted.",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...")
@_OPTIONS
def compare(
    checkpoints: tuple[str, ...],
    tasks: list[str],
    out: str | None,
    *,
    as_json: bool,
    dry_run: bool,
    asked: tuple[str, ...],
    references: tuple[str, ...],
    **options: Unpack[RequestOptions],
) -> int:
    """Evaluate adapters at every rank on tasks, and integrate the curves into AURAC.

    \b
    aurac compare ckpt_a ckpt_b --tasks gsm8k
    aurac compare ckpt_a "lora per rank=runs/lora_r{1,2,4,8}" --tasks gsm8k
    aurac compare ckpt_a --tasks gsm8k,arc_easy --data gsm8k=FOLDER --limit 200
    aurac compare ckpt_a --tasks gsm8k --basis prefix,svd --rescale rule,keep
    """  # noqa: D301
    if not checkpoints or not tasks:
        missing = "adapters" if not checkpoints else "--tasks"
        raise UsageError(f"no {missing}", expected="aurac compare CKPT... --tasks TASK,TASK")
    from aurac.analysis.primary import parse_pairs
    from aurac.runs.settings import Request

    options["primary"] = tuple(parse_pairs(asked, references))
    request = Request.of(checkpoints, tasks, out, **options)
    if dry_run:
        return _show_dry_run(request, as_json=as_json)
    return evaluate(request, as_json=as_json)


def evaluate(request: Request, *, as_json: bool) -> int:
    """Compare, and print the results.

    A finished run is recognised before anything heavy is loaded.
    """
    from aurac.runs.finished import recall

    done = recall(request)
    if done is not None:
        click.echo(f"0 of {done.cells} cells to compute, {done.cells} already there", err=True)
    else:
        if sys.stderr.isatty():  # many seconds pass before the next line
            click.echo("loading libraries, tasks and adapters …", err=True)
        from aurac.runs.compare import run

        done = run(request, progress=True, command=_typed())
    _show_comparison(done, as_json=as_json)
    return 3 if done.failures else 0


def _typed() -> str:
    """The command as it was typed, for the record of a run."""
    return shlex.join(["aurac", *sys.argv[1:]])


def _show_dry_run(request: Request, *, as_json: bool) -> int:
    """Print what `compare` would do; nothing is fetched."""
    with _offline():
        from aurac.runs.dryrun import plan_request

        plan = plan_request(request, _typed())
    print_result(plan.to_dict(), "\n".join(_dry_run_lines(plan)), as_json=as_json)
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


def _dry_run_lines(plan: DryRun) -> list[str]:
    head = ["task", "curve", "ranks to compute", "already there", "requests each"]
    rows, called = [], label_names(line.curve for line in plan.lines)
    for line in plan.lines:
        ranks = [",".join(map(str, ranks)) or "–" for ranks in (line.left, line.done)]
        requests = "?" if line.requests is None else str(line.requests)
        rows.append([line.task, called[line.curve], *ranks, requests])
    left = plan.cells - plan.done - plan.failed
    there = f", {plan.done} already in {plan.folder}" if plan.done else ""
    if plan.failed:
        there += f", {plan.failed} failed before (--retry-failed tries them again)"
    lines = [as_table(head, rows), "", f"{left} of {plan.cells} cells to compute{there}"]
    lines.append(f"on {plan.device} in {plan.dtype}, base {plan.base}")
    lines += [f"download: {what}" for what in plan.downloads] or ["download: nothing"]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _show_failures(done: Run) -> None:
    failures = done.results.failures
    labels = [curve.id for curve in done.results.curves] + [x.curve or "" for x in failures]
    called = label_names(labels)
    for failure in failures:
        place = f"{called[failure.curve]} at rank {failure.rank}" if failure.curve else "base"
        print_text(f"failed: {place} on {failure.task}: {failure.reason}", error=True)
    if done.failures:
        click.echo("--retry-failed tries failed cells again", err=True)


def _show_comparison(done: Run, *, as_json: bool) -> None:
    """Print what `compare` gave: the table and the pairs, or JSON."""
    if as_json:
        print_json(done.results.to_dict())
    else:
        _show_results(done)
    if done.besides:
        print_text(done.besides, error=as_json)


def _show_results(done: Run) -> None:
    from aurac.records.run import stored_run
    from aurac.show import terminal_table, terminal_text
    from aurac.show.caveats import doubts
    from aurac.show.names import Names
    from aurac.terminal import stdout_console

    console, known = stdout_console(), None
    if not done.failures and len(done.results.curves) > 1:
        known = done.analysis
    best = known.candidates if known else ()
    console.print(terminal_table(done.results, width=console.width, best=best))
    if known is not None:
        known = Names(known).analysis(known)
        title = "Paired differences on the same documents"
        text = terminal_text.pair_lines(known.pairs, known.variants, title)
        text += [known.primary.sentence] if known.primary else []
        text += terminal_text.best_lines(known.best, declared=bool(known.primary))
        print_text("\n".join(text))
    for doubt in doubts(stored_run(done.results, done.folder)):
        print_text(doubt)
    _show_failures(done)
    click.echo(f"report: {done.folder / 'report.html'}")
    if len(done.failures) < done.cells:
        click.echo(f"next: aurac recommend {shlex.quote(str(done.folder))} --margin M")
