"""`aurac compare`."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from aurac.cli import _complete
from aurac.cli.options import checkpoint_options, folders, names, pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.results import Comparison


@click.command(
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed (the rest are kept), "
    "130 interrupted."
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--tasks",
    multiple=True,
    required=True,
    shell_complete=_complete.tasks,
    help="Task names, comma-separated: bundled or any of lm-eval's.",
)
@click.option("--ranks", default="pow2", show_default=True, help="pow2, all, or such as 1,2,4.")
@click.option(
    "--basis",
    multiple=True,
    default=["prefix"],
    show_default=True,
    help="prefix, svd, or both; the first is the one compared.",
)
@click.option(
    "--rescale",
    multiple=True,
    help="rule, keep, trained, fit; several may be given. Default: each adapter's own.",
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(min=0),
    help="Examples in each prompt. Default: the task's own number.",
)
@click.option(
    "--fewshot",
    type=click.Choice(["stock", "fixed"]),
    default="stock",
    show_default=True,
    help="Draw examples as lm-eval does, or one fixed header for all documents.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help="Only the first so many documents of each task (0: all). Default: 100 of a bundled task, "
    "all of any other.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    help="Which split is evaluated. Default: the one lm-eval takes.",
)
@click.option(
    "--metric", multiple=True, help="TASK=NAME,FILTER or NAME,FILTER: what accuracy means."
)
@click.option(
    "--data",
    multiple=True,
    help="TASK=FOLDER with local splits (.jsonl[.gz], .json, .parquet, .csv).",
)
@click.option(
    "--chat-template", is_flag=True, help="Put prompts through the tokenizer's chat template."
)
@click.option(
    "--base", help="Base model: packaged name, hub id or folder. Default: what the adapters record."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps.")
@click.option(
    "--device-map",
    help="Spread a base larger than one device (accelerate): auto, balanced, sequential, or JSON "
    'such as {"": "cpu"}.',
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Most sequences in one forward pass."
)
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Most tokens in one forward pass.")
@click.option("--seed", type=int, default=1234, show_default=True, help="Of the few-shot sampling.")
@click.option(
    "--out",
    type=click.Path(),
    help="Run folder. Default: runs/<tasks>-<hash>; the same command goes on in it.",
)
@click.option("--trust-remote-code", is_flag=True, help="Let the base model run its own code.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    help="NAME=ADAPTER,ADAPTER: seeds of one recipe, compared as one arm.",
)
@click.option(
    "--cluster",
    multiple=True,
    help="TASK=FIELD of its documents: those with the same value share a passage.",
)
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
@click.option(
    "--status",
    is_flag=True,
    help="Only say what is done, running, failed and left in --out, with the time left.",
)
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed before.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster (aurac[ray]).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes. Default: one for each CUDA device, else one; ray: as many as fit.",
)
@click.option("--address", help="Of the Ray cluster, such as auto or ray://HOST:10001.")
@click.option(
    "--shard", help="NUMBER/OF: compute this share only, for job arrays; gather without it."
)
@click.option(
    "--profile", is_flag=True, help="Write profile.json: where the time went, by kind of work."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would run: cells, time, memory, downloads. Nothing is loaded or fetched.",
)
@checkpoint_options
def compare(
    checkpoints: tuple[str, ...],
    tasks: tuple[str, ...],
    metric: tuple[str, ...],
    data: tuple[str, ...],
    basis: tuple[str, ...],
    rescale: tuple[str, ...],
    out: str | None,
    as_json: bool,
    groups: tuple[str, ...],
    cluster: tuple[str, ...],
    device_map: str | None,
    status: bool,
    shard: str | None,
    dry_run: bool,
    **settings: Any,
) -> int:
    """Evaluate adapters at every rank on tasks, and integrate the curves into AURAC.

    \b
    aurac compare ckpt_a ckpt_b --tasks gsm8k
    aurac compare ckpt_a --tasks gsm8k,arc_easy --data gsm8k=FOLDER --limit 200
    aurac compare ckpt_a --tasks aurac_word_problems --basis prefix,svd --rescale rule,keep
    """  # noqa: D301
    if status:
        return _status(out, as_json)
    command = shlex.join(["aurac", *sys.argv[1:]])
    if dry_run:
        from aurac.cli._dry_run import show_dry_run
        from aurac.tasks.task_index import check_names

        check_names(names(tasks))
        settings |= {"data": folders(data), "basis": names(basis), "rescale": names(rescale)}
        settings |= {"shard": shard, "groups": groups}
        return show_dry_run(
            checkpoints,
            names(tasks),
            out=out,
            command=command,
            as_json=as_json,
            metric=metric,
            **settings,
        )
    from aurac.cli._analysis import parse_groups
    from aurac.runs.settings import parse_device_map, parse_shard
    from aurac.tasks.metrics import parse_metrics

    done = _done(
        checkpoints,
        names(tasks),
        out,
        command=command,
        metric=parse_metrics(metric),
        data=folders(data),
        basis=names(basis),
        rescale=names(rescale) or None,
        groups=parse_groups(groups),
        cluster=pairs(cluster, "--cluster"),
        device_map=parse_device_map(device_map),
        shard=parse_shard(shard),
        **settings,
    )
    if done.shard:
        _show_shard(done, *done.shard)
    else:
        _show(done, as_json)
    return 3 if done.failures else 0


def _done(
    checkpoints: tuple[str, ...],
    tasks: Sequence[str],
    out: str | None,
    command: str,
    **settings: Any,
) -> Comparison:
    """The comparison: recognised as finished before anything heavy is loaded, or computed."""
    from aurac.runs.finished import Request, recall
    from aurac.runs.settings import separated
    from aurac.tasks.task_index import check_names

    done = recall(Request(checkpoints, tuple(tasks), out, *separated(settings)))
    if done is not None:
        click.echo(f"0 of {done.cells} cells to compute, {done.cells} already there", err=True)
        return done
    check_names(tasks)
    from aurac.runs.compare import compare as run

    return run(checkpoints, tasks, out=out, progress=True, command=command, **settings)


def _status(out: str | None, as_json: bool) -> int:
    """A run folder's state, without its models: from --out, which must be given then."""
    from aurac.cli.runs import show_status
    from aurac.errors import UsageError

    if out is None:
        raise UsageError("--status without --out", fix="give the run folder with --out FOLDER")
    return show_status(out, as_json)


def _show_shard(done: Comparison, number: int, of: int) -> None:
    succeeded = done.cells - len(done.failures)
    click.echo(f"shard {number}/{of}: {succeeded} of {done.cells} cells done in {done.folder}")
    _show_failures(done)
    click.echo("the same command without --shard gathers the results")


def _show_failures(done: Comparison) -> None:
    for failure in done.failures:
        label = f"{failure.task} · {failure.curve or 'base'} · rank {failure.rank}"
        click.echo(f"failed: {label}: {failure.reason}", err=True)
    if done.failures:
        click.echo("--retry-failed tries failed cells again", err=True)


def _show(done: Comparison, as_json: bool) -> None:
    if as_json:
        content = done.results.to_dict()
        click.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        _show_besides(done, err=True)
        return
    from aurac.report import terminal_table
    from aurac.terminal.console import stdout_console

    console = stdout_console()
    console.print(terminal_table(done.results.to_dict(), width=console.width))
    if len(done.results.adapters) > 1 and not done.failures:
        from aurac.cli._analysis import analyse_sources, pair_lines

        found = analyse_sources([str(done.folder)], None, (), strict=False)
        click.echo("\n".join(pair_lines(found.pairs, "Paired differences on the same documents")))
    _show_failures(done)
    click.echo(f"report: {done.folder / 'report.html'}")
    _show_besides(done)


def _show_besides(done: Comparison, *, err: bool = False) -> None:
    if done.besides:
        click.echo(done.besides, err=err)
