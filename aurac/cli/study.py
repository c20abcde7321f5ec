"""`aurac study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import NOT_SHOWN, command, options, print_json, print_result, print_table
from aurac.errors import UsageError

if TYPE_CHECKING:
    from aurac.study.design import Study


@command()
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")
@options(
    """
    --out PATH: Folder; runs/NAME by default.
    --retry-failed
    --device
    --dry-run FLAG: Say what is done and left, and how long it takes.
    --report FLAG: Write the report again, without a model.
    --check N INTEGER>=1: Train N adapters of a finished study again, and compare their outcomes
        with those kept.
    --json
    """
)
def study(
    study: Path,
    out: Path | None,
    *,
    retry_failed: bool,
    device: str,
    dry_run: bool,
    report: bool,
    check: int | None,
    as_json: bool,
) -> None:
    """Run a whole experiment from one file: search, training, evaluation, report.

    STUDY is a YAML file of tasks, methods, learning rates and seeds. The same command goes on after
    an interruption, and several processes may run it in the same folder.

    \b
    aurac study nested.yaml --dry-run
    aurac study nested.yaml --out runs/nested
    aurac study nested.yaml --out runs/nested --report
    aurac study nested.yaml --out runs/nested --check 2
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.study.load import load_study

    if sum((dry_run, report, check is not None)) > 1:
        raise UsageError("--dry-run, --report and --check together", expected="one of them")
    loaded = load_study(study)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, study, folder, as_json=as_json)
        return
    how: dict[str, Any] = {"device": device, "progress": True}
    how["say"] = lambda line: click.echo(line, err=True)
    if check:
        _check(loaded, study, folder, check, how, as_json=as_json)
        return
    from aurac.records.schema import Results
    from aurac.study.plan import edges_in, rates_in, read_state
    from aurac.study.summary import place_of, summarise

    if report:
        state = read_state(folder)
    else:
        from aurac.study.run import run_study

        state = run_study(loaded, study, folder, retry_failed=retry_failed, **how)
    written = summarise(loaded, study, folder, state)
    if as_json:
        edges = edges_in(loaded, state)
        print_json({"report": str(written), "rates": rates_in(loaded, state), "edges": edges})
    else:
        click.echo(str(written))
    places = (place_of(task, state, folder) for task in loaded.tasks)
    if any(Results.read(place).failures for place in places):
        raise click.exceptions.Exit(3)


def _check(
    loaded: Study, study: Path, folder: Path, count: int, how: dict[str, Any], *, as_json: bool
) -> None:
    from aurac.study.check import check_study

    rows = check_study(loaded, study, folder, count, **how)
    lines = [
        f"{row.name} on {row.task}: {'the same' if row.weights else 'other'} weights, "
        f"{row.different} of {row.outcomes:,} outcomes differ"
        for row in rows
    ]
    print_result([row._asdict() for row in rows], "\n".join(lines), as_json=as_json)
    if any(row.different for row in rows):
        raise click.exceptions.Exit(NOT_SHOWN)


def _print_plan(loaded: Study, study: Path, folder: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from aurac.runs.log import duration
    from aurac.study.plan import plan_study

    plan = plan_study(loaded, study, folder)
    if as_json:
        print_json(asdict(plan))
        return
    counts = {"trainings for the search": plan.searches}
    counts |= {"trainings for the results": plan.trainings, "cells": plan.cells}
    for name, (done, total) in counts.items():
        click.echo(f"{name}: {total}, {done} done")
    rows = []
    for row in plan.methods:
        pace = duration(row.pace) if row.pace else "–"
        rows.append([row.task, row.method, str(row.total), str(row.done), pace])
    print_table(["task", "method", "trainings", "done", "time of one"], rows)
    for name, seconds in (("training", plan.training_left), ("evaluation", plan.cells_left)):
        left = "not known before one is done"
        if seconds is not None:
            left = f"{duration(seconds)} of one process, at the pace of what is done"
        click.echo(f"{name} left: {left}")
    for task, rates in plan.rates.items():
        listed = ", ".join(f"{method} {rate:g}" for method, rate in rates.items())
        click.echo(f"learning rates on {task}: {listed}")
    for edge in plan.edges:
        click.echo(f"the best learning rate of {edge} is at the end of its grid")
