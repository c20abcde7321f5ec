"""`aurac train` and `aurac study`."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import (
    as_table,
    command,
    numbers,
    options,
    pairs,
    parsed,
    print_result,
    repeated,
)

if TYPE_CHECKING:
    from aurac.training.recipe import Recipe


def _complete_recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    root = Path(__file__).parents[1] / "training" / "recipes"  # importing it would load torch
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


@command(short="base set out device family seed list")
@click.argument("recipe", required=False, shell_complete=_complete_recipes)
@options(
    """
    --base: Base model, if another than the recipe's.
    --set overrides: KEY=VALUE: change one setting of the recipe.
    --seed INTEGER: Seed, if another than the recipe's.
    --out PATH: Folder of the adapter.
    --device
    --force FLAG: Replace what is at --out, and start over.
    --family <RANKS>: Train one adapter for each of these ranks, such as 1,2,4, below --out. `aurac
        compare` takes the folder as one curve.
    --list listing FLAG: List the built-in recipes.
    --json
    """,
    overrides=repeated(lambda values: pairs(values, "--set")),
    family=parsed(numbers("--family")),
)
def train(
    recipe: str | None,
    *,
    overrides: dict[str, str],
    base: str | None,
    seed: int | None,
    out: Path | None,
    family: tuple[int, ...] | None,
    device: str,
    force: bool,
    listing: bool,
    as_json: bool,
) -> None:
    """Train an adapter from a recipe (a built-in name or a .yaml file).

    The same command goes on after an interruption.

    \b
    aurac train --list
    aurac train word_problems/matryoshka --out my_adapter
    aurac train word_problems/lora --family 1,2,4,8,16 --out lora_per_rank
    aurac train word_problems/lora --set rank=8 --seed 7 --out lora8
    """  # noqa: D301
    from aurac.training.recipe import family_members, load_recipe

    if listing:
        _list_recipes(as_json=as_json)
        return
    if not recipe or not out:
        raise click.UsageError("give a RECIPE and --out FOLDER; --list shows the recipes")
    given = {"seed": None if seed is None else str(seed), "base": base}
    loaded = load_recipe(recipe, overrides | {k: v for k, v in given.items() if v is not None})
    members = family_members(loaded, family) if family else [("", loaded)]
    jobs = [(job, out / label) for label, job in members]
    from aurac.training.job import is_main_process, is_trained, train  # loads transformers

    rows = []
    for job, folder in jobs:
        if family and not force and is_trained(folder, job):
            click.echo(f"{folder}: already there", err=True)
            continue
        done = train(job, folder, device=device, force=force, progress=not as_json)
        loss = done.losses[-1][1] if done.losses else None
        rows.append({"folder": folder, "seconds": done.seconds, "loss": loss})
    if not is_main_process():
        return
    lines = [
        f"{row['folder']}: {row['seconds']:.0f} s, last mean loss {row['loss']}" for row in rows
    ]
    following = f"aurac compare {shlex.quote(str(out))} --tasks {loaded.task or 'TASK'}"
    print_result(rows, "\n".join([*lines, f"next: {following}"]), as_json=as_json)


def _length(recipe: Recipe) -> str:
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
    return f"{length} × {recipe.batch_size}"


def _list_recipes(*, as_json: bool) -> None:
    from aurac.training.recipe import built_in_recipes, load_recipe

    loaded = {name: load_recipe(name) for name in built_in_recipes()}
    rows = [
        {
            "recipe": name,
            "method": recipe.method,
            "rank": recipe.rank,
            "data": recipe.task or recipe.data,
            "base": recipe.base,
            "length × examples a step": _length(recipe),
        }
        for name, recipe in loaded.items()
    ]
    times = "word_problems/* take 3 to 6 minutes on two CPU cores; the others need a GPU."
    text = as_table(list(rows[0]), [list(row.values()) for row in rows])
    print_result(rows, f"{text}\n{times}", as_json=as_json)


@command(
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed and the rest are kept, "
    "130 interrupted."
)
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")
@options(
    """
    --out PATH: Folder; runs/NAME by default.
    --device
    --dry-run FLAG: List the adapters, and what is left to do for each.
    """
)
def study(study: Path, out: Path | None, *, device: str, dry_run: bool) -> None:
    """Run a whole experiment from one file: training, evaluation, report.

    STUDY is a YAML file of recipes, seeds and tasks. What is there is not computed again, and the
    same command goes on after an interruption.

    \b
    aurac study nested.yaml --dry-run
    aurac study nested.yaml --out runs/nested
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.study import load_study, run_study
    from aurac.study.design import planned
    from aurac.study.execution import missing

    loaded = load_study(study)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        left = {a.name for adapters in missing(loaded, study, folder) for a in adapters}
        for adapter in planned(loaded, study):
            trained = all(path.exists() for path, _ in adapter.trainings(folder))
            state = ("evaluate" if trained else "train") if adapter.name in left else "done"
            click.echo(f"{state:8}  {adapter.name} on {adapter.task}")
        return
    say = functools.partial(click.echo, err=True)
    run, _ = run_study(loaded, study, folder, device=device, progress=True, say=say)
    click.echo(str(folder / "report.md"))
    if run.failures:
        raise click.exceptions.Exit(3)
