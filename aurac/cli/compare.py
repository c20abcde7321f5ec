"""`aurac compare`."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from aurac.cli import _complete
from aurac.cli.options import checkpoint_options, folders, names


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
    "--data", multiple=True, help="TASK=FOLDER with local splits (.jsonl, .json, .parquet, .csv)."
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
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
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
    dry_run: bool,
    **settings: Any,
) -> int:
    """Evaluate adapters at every rank on tasks, and integrate the curves into AURAC.

    \b
    aurac compare ckpt_a ckpt_b --tasks gsm8k
    aurac compare ckpt_a --tasks gsm8k,arc_easy --data gsm8k=FOLDER --limit 200
    aurac compare ckpt_a --tasks aurac_word_problems --basis prefix,svd --rescale rule,keep
    """  # noqa: D301
    if dry_run:
        from aurac.cli._dry_run import show_dry_run

        settings |= {"data": folders(data), "basis": names(basis), "rescale": names(rescale)}
        return show_dry_run(
            checkpoints, names(tasks), out=out, as_json=as_json, metric=metric, **settings
        )
    from aurac.comparison import compare as run
    from aurac.evaluation import parse_metrics

    done = run(
        list(checkpoints),
        names(tasks),
        out=out,
        progress=True,
        command=shlex.join(["aurac", *sys.argv[1:]]),
        metric=parse_metrics(metric),
        data=folders(data),
        basis=names(basis),
        rescale=names(rescale) or None,
        **settings,
    )
    _show(done, as_json, groups)
    return 3 if done.failures else 0


def _show(done: Any, as_json: bool, groups: tuple[str, ...]) -> None:
    if as_json:
        from aurac.results import RESULTS_FILE

        click.echo((done.folder / RESULTS_FILE).read_text(encoding="utf-8"), nl=False)
        return
    from aurac.console import stdout_console
    from aurac.report import terminal_table

    stdout_console().print(terminal_table(done.results))
    if len(done.results["adapters"]) > 1 and not done.failures:
        from aurac.cli._analysis import analyse_sources, pair_lines

        found = analyse_sources([str(done.folder)], None, groups, 0)
        click.echo("\n".join(pair_lines(found.pairs, "Paired differences on the same documents")))
    for failure in done.failures:
        who = failure["curve"] or "base"
        click.echo(
            f"failed: {failure['task']} · {who} · rank {failure['rank']}: {failure['reason']}",
            err=True,
        )
    click.echo(f"report: {done.folder / 'report.html'}")
