"""Stored results: `aurac recommend`, `aurac score`, `aurac report` and `aurac export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command, pair
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from aurac.analysis import Analysis
    from aurac.notebook import Run
    from aurac.records.run import StoredRun

    Pairs = tuple[tuple[str, Any], ...]

RUN = click.argument("run", type=FOLDER, metavar="RUN")


def answered(
    folder: Path,
    groups: Pairs = (),
    metric: tuple[str, ...] = (),
    cluster: Pairs = (),
    **asked: Any,
) -> Run:
    """A run or study, and what it says to a question; what is not asked is as it is recorded."""
    from aurac.notebook import load_run

    run, given = load_run(folder), dict(groups)
    asked |= {"metrics": metric or None, "clusters": dict(cluster) or None}
    changes = {name: value for name, value in asked.items() if value is not None}
    return run.ask(groups=run.question.apart(given) | given, **changes)


@command(
    epilog="Exit codes: 0 answered, 2 bad input, 3 results are missing, so that the answer may "
    "change, 4 an adapter needs a rank above --rank."
)
@RUN
@shared.margin()
@shared.reference
@click.option(
    "--rank", type=click.IntRange(min=1), metavar="N",
    help="Exit with code 4 unless rank N or a smaller one passes for every adapter.",
)  # fmt: skip
@shared.group
@shared.metric
@shared.limit
@shared.details
@shared.as_json
def recommend(run: Path, rank: int | None, details: bool, as_json: bool, **asked: Any) -> int:
    """Name the rank of each adapter to ship.

    It and every larger rank are shown (95 % confidence) to lose at most the margin against the
    adapter's trained rank.

    \b
    aurac recommend runs/gsm8k --margin 0.02
    aurac recommend runs/gsm8k --margin 0.02 --rank 16    # as a check in CI
    """  # noqa: D301 - click's mark for lines that stay as they are
    found = answered(run, **asked)
    found.recommend()  # refuses a run without a margin
    shared.print_analysis(found.analysis, found, as_json=as_json, details=details)
    names = [adapter.name for adapter in found.adapters]
    if rank is None:
        return 3 if is_open(found) else 0
    larger = beyond(found.analysis, rank, names)
    said = (
        f"is not enough for {'; '.join(larger)}" if larger else f"suffices for {', '.join(names)}"
    )
    click.echo(one_line(f"aurac: rank {rank} {said}"), err=True)
    return 4 if larger else 0


def is_open(run: Run) -> bool:
    """Whether a result is missing, so that there is no recommendation or it may change."""
    rows = [row for row in run.analysis.rows if not row.rolling]
    missing = any(curve.missing for row in rows for curve in row.curves)
    missing |= not all(task.rolling for task in shared.absent(run))
    untested = any(advice.reference is None for advice in run.tables.recommended)
    there = {curve.adapter for curve in run.curves if curve.ranks}
    return missing or untested or bool({each.name for each in run.adapters} - there)


def beyond(analysis: Analysis, rank: int, adapters: Iterable[str]) -> list[str]:
    """The adapters that may not be shipped at a rank, on which task and why."""
    smallest = {(each.task, each.key): each.smallest_rank for each in analysis.tables.recommended}
    rows = [row for row in analysis.rows if not row.rolling]
    found = [
        f"{row.name} on {row.task} (the smallest that passes is {needed or 'not known'})"
        for row in rows
        if not (needed := smallest.get((row.task, row.key))) or needed > rank
    ]
    there = {curve.adapter for row in rows for curve in row.curves if curve.ranks}
    return found + [f"{name} (no accuracy is known)" for name in adapters if name not in there]


@command()
@click.argument("source", type=FOLDER, metavar="FILE|RUN")
@shared.question
@shared.details
@shared.as_json
def score(
    source: Path,
    groups: Pairs,
    metric: tuple[str, ...],
    cluster: Pairs,
    details: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compute AURAC and differences from a table, from lm-eval's sample logs, or from a run.

    A table (.csv, .jsonl, .parquet) has the columns adapter, task, rank, example and score, and
    perhaps seed and cluster; or rank and accuracy, and perhaps adapter and task. The base has
    rank 0.

    \b
    aurac score outcomes.csv
    aurac score runs/gsm8k --json
    """  # noqa: D301
    from aurac.analysis import Question, analyse
    from aurac.readers import read_curves
    from aurac.records.run import is_run

    run: StoredRun | None = None
    if is_run(source):
        found = answered(source, groups, metric, cluster, **asked)
        run, analysis = found, found.analysis
    else:
        curves = read_curves(source, metric, dict(cluster))
        analysis = analyse(curves, Question(groups=dict(groups), **asked))
    shared.print_analysis(analysis, run, as_json=as_json, details=details)


@command()
@RUN
@click.option("--out", type=FOLDER, help="Folder to write to. Default: the run's.")
@shared.question
@click.option(
    "--label", type=pair, multiple=True, metavar="NAME=TEXT",
    help="What figures and tables call an adapter.",
)  # fmt: skip
def report(run: Path, out: Path | None, label: tuple[tuple[str, str], ...], **asked: Any) -> None:
    """Write the report of a run again: Markdown, HTML, LaTeX, CSV and figures; no model is loaded.

    \b
    aurac report runs/gsm8k --margin 0.01 --label "my_adapter=My adapter"
    """  # noqa: D301
    from aurac.records.run import folder_of

    if label:
        asked["labels"] = dict(label)
    for path in answered(run, **asked).report(out or folder_of(run)):
        if path.suffix in (".md", ".html"):
            click.echo(path)


@command()
@RUN
@click.option("--out", type=FOLDER, required=True, help="Folder to write to, a new one.")
@shared.margin()
def export(run: Path, out: Path, margin: float | None) -> None:
    """Write a run as lm-eval's own results and sample logs, a folder for each adapter and rank.

    Beside them are the adapter's model card and, where a task's data are on the hub, the result of
    the rank to ship in .eval_results.

    \b
    aurac export runs/gsm8k --out exported --margin 0.02
    """  # noqa: D301
    from aurac.exports import export as write_export

    written = write_export(run, out, margin)
    click.echo(f"{len(written)} results and their samples in {out}")
