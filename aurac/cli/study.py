"""`aurac study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import print_json

if TYPE_CHECKING:
    from aurac.study.design import Study


@click.command()
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME by default.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps.")
@click.option("--dry-run", is_flag=True, help="Say what is there and what is left.")
@click.option("--report", is_flag=True, help="Write the report again, without a model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def study(
    study: Path, out: Path | None, *, device: str, dry_run: bool, report: bool, as_json: bool
) -> None:
    """Run a whole experiment from one file: search, training, evaluation, report.

    STUDY is a YAML file of tasks, methods, learning rates and seeds. The same command goes on after
    an interruption, and several processes may run it in the same folder.

    \b
    aurac study nested.yaml --dry-run
    aurac study nested.yaml --out runs/nested
    aurac study nested.yaml --out runs/nested --report
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.study.design import load_study

    loaded = load_study(study)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, study, folder, as_json=as_json)
        return
    from aurac.study.summary import summarise

    if report:
        from aurac.study.run import read_state

        state = read_state(folder)
    else:
        from aurac.study.run import run_study

        state = run_study(
            loaded,
            study,
            folder,
            device=device,
            progress=True,
            say=lambda line: click.echo(line, err=True),
        )
    written = summarise(loaded, study, folder, state)
    if as_json:
        print_json({"report": str(written), "rates": state["rates"], "edges": state["edges"]})
    else:
        click.echo(str(written))


def _print_plan(loaded: Study, study: Path, folder: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from aurac.study.run import plan_study

    plan = plan_study(loaded, study, folder)
    if as_json:
        print_json(asdict(plan))
        return
    for name, (done, total) in (("search", plan.searches), ("results", plan.trainings)):
        click.echo(f"trainings for the {name}: {total}, {done} done")
    done = plan.searches[0] + plan.trainings[0]
    left = plan.searches[1] + plan.trainings[1] - done
    if done and plan.seconds:
        hours = left * plan.seconds / done / 3600
        click.echo(f"time of the trainings left: {hours:.1f} h at the pace of those done")
    for task, rates in plan.rates.items():
        chosen = ", ".join(f"{method} {rate:g}" for method, rate in rates.items())
        click.echo(f"learning rates on {task}: {chosen}")
    for edge in plan.edges:
        click.echo(f"the best learning rate of {edge} is at the end of its grid")
