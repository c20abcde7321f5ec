"""`aurac train` and `aurac study`."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import click

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command, pair, whole_numbers


def _complete_recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    root = Path(__file__).parents[1] / "training" / "recipes"  # importing it would load torch
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


@command()
@click.argument("recipe", required=False, shell_complete=_complete_recipes)
@click.option("--base", help="Base model. Default: the recipe's.")
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Optimizer steps. Default: the recipe's."
)
@click.option(
    "--set", "overrides", type=pair, multiple=True, metavar="KEY=VALUE",
    help="Change a setting of the recipe; repeat it for others. --list names them.",
)  # fmt: skip
@click.option("--seed", type=int, help="Training seed. Default: the recipe's.")
@click.option("--out", type=FOLDER, help="Folder for the adapter.")
@shared.device
@click.option("--force", is_flag=True, help="Replace what is in --out, and start again.")
@click.option(
    "--save-steps", type=click.IntRange(0), default=50, show_default=True, metavar="N",
    help="Write a checkpoint, and measure the recipe's validation examples, every N steps.",
)  # fmt: skip
@click.option("--report-to", default="none", help="Also log to a tracker: tensorboard, wandb, …")
@click.option(
    "--ranks", type=whole_numbers, metavar="1,2,4",
    help="Train an adapter for each of these ranks, in folders below --out.",
)  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the built-in recipes.")
@shared.as_json
def train(
    recipe: str | None,
    overrides: tuple[tuple[str, str], ...],
    base: str | None,
    seed: int | None,
    out: Path | None,
    steps: int | None,
    ranks: tuple[int, ...] | None,
    device: str | None,
    force: bool,
    listing: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Train an adapter from a recipe (a built-in name or a .yaml file).

    The same command goes on after an interruption.

    \b
    aurac train --list
    aurac train word_problems/matryoshka --out my_adapter
    aurac train word_problems/lora --ranks 1,2,4,8,16 --out lora_per_rank
    aurac train word_problems/lora --set rank=8 --seed 7 --out lora8
    """  # noqa: D301 - click's mark for lines that stay as they are
    if listing:
        _list_recipes(as_json=as_json)
        return
    if not out or not recipe:
        raise click.UsageError("give a RECIPE and --out FOLDER; --list shows the recipes")
    from aurac.training.data import identified
    from aurac.training.job import is_main_process, is_trained, train  # loads transformers
    from aurac.training.recipe import family_members, load_recipe

    given = {"seed": seed, "base": base, "steps": steps}
    changed = dict(overrides) | {k: str(v) for k, v in given.items() if v is not None}
    made = identified(load_recipe(recipe, changed))
    click.echo(f"loading data and base {made.base} …", err=True)
    how |= {"device": device or "auto", "progress": not as_json, "force": force}
    rows: list[dict[str, Any]] = []
    for label, member in (family_members(made, ranks) if ranks else {"": made}).items():
        folder = out / label
        if ranks and not force and is_trained(folder, member):
            click.echo(f"{folder}: already there", err=True)
            continue
        done = train(member, folder, **how)
        facts = {"folder": folder, "seconds": done.seconds, "loss": done.losses[-1][1]}
        rows.append({**facts, "validation_loss_by_rank": done.curve})
    if not is_main_process():
        return
    if as_json:
        shared.print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['folder']}: {row['seconds']:.0f} s, last mean loss {row['loss']:.3g}")
        for rank, loss in row["validation_loss_by_rank"].items():
            click.echo(f"  validation loss at rank {rank}: {loss:.4f}")
    click.echo(f"next: aurac compare {shlex.quote(str(out))} --tasks {made.task or 'TASK'}")


def _list_recipes(*, as_json: bool) -> None:
    from aurac.training.recipe import SETTINGS, built_in_recipes, load_recipe

    rows = []
    recipes = {name: load_recipe(name) for name in built_in_recipes()}
    for name, recipe in sorted(recipes.items(), key=lambda item: not item[1].task):  # no hub: first
        length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
        row = {"recipe": name, "method": recipe.method, "rank": recipe.rank}
        row |= {"data": recipe.task or recipe.data}
        rows.append(row | {"length × examples a step": f"{length} × {recipe.batch_size}"})
    shared.print_rows(rows, as_json=as_json)
    if not as_json:
        click.echo("word_problems/* take 3 to 6 minutes on two CPU cores; the others need a GPU.")
        click.echo(f"Settings for --set: {', '.join(SETTINGS)}.")


@command(
    epilog="Exit codes: 0 done, 2 bad input, 3 some adapters are left or diverged, 130 interrupted."
)
@click.argument("study", type=FOLDER, metavar="STUDY")
@click.option("--out", type=FOLDER, help="Folder of the study. Default: runs/NAME.")
@shared.device
@click.option("--dry-run", is_flag=True, help="List the adapters and what is left to do for each.")
def study(study: Path, out: Path | None, device: str | None, dry_run: bool) -> int:
    """Run a whole experiment from one file: training, evaluation, report.

    STUDY is a YAML file of recipes, seeds and tasks. The same command goes on after an
    interruption, and computes nothing twice.

    \b
    aurac study nested.yaml --dry-run
    aurac study nested.yaml --out runs/nested
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.study import StudyFolder, jobs, left, load_study, run_study

    loaded, say = load_study(study), functools.partial(click.echo, err=True)
    folder = out or Path("runs") / loaded.file.name
    study_folder = StudyFolder(loaded, folder, device=device or "auto", progress=True, say=say)
    if dry_run:
        for job in (every := left(study_folder)):
            on = "" if job.plan.task in job.name else f" on {job.plan.task}"
            click.echo(f"{job.state:8}  {job.name}{on}")
        for what, where in (("trials", "search"), ("adapters", "run")):
            states = [job.state for job in every if job.where == where]
            if states:
                click.echo(f"{len(states)} {what}, {states.count('done')} of them done")
        return 0
    for run in run_study(study_folder):
        click.echo(run.folder.with_name("report.md"))
    found = {job.state for job in jobs(study_folder) if job.where == "run"}
    return 3 if found - {"done"} else 0
