"""`aurac train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import command, numbers, options, pairs, print_json, print_table, repeated
from aurac.errors import RunFolderError
from aurac.runs.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from aurac.training.recipe import Recipe


def _complete_recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    root = Path(__file__).parents[1] / "training" / "recipes"  # importing it would load torch
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


@command()
@click.argument("recipe", required=False, shell_complete=_complete_recipes)
@options(
    """
    --base: Base model, if another than the recipe's.
    --set overrides: KEY=VALUE: change one setting of the recipe.
    --seed INTEGER: Seed, if another than the recipe's.
    --out PATH: Folder of the adapter.
    --device
    --force FLAG: Replace what is at --out, and start over.
    --save-steps INTEGER>=0 [0]: Write a trainer checkpoint every so many steps.
    --resume FLAG: Go on from the newest trainer checkpoint.
    --family RANKS: Train one adapter for each of these ranks, such as 1,2,4, below --out. `aurac
        compare` takes the folder as one curve.
    --list listing FLAG: List the built-in recipes.
    --json
    """,
    overrides=repeated(lambda values: pairs(values, "--set")),
    family=numbers("--family"),
)
def train(
    recipe: str | None,
    *,
    overrides: dict[str, str],
    base: str | None,
    seed: int | None,
    out: Path | None,
    family: tuple[int, ...] | None,
    listing: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an adapter from a recipe (a built-in name or a .yaml file).

    \b
    aurac train --list
    aurac train word_problems/matryoshka --out my_adapter
    aurac train word_problems/lora --family 1,2,4,8,16 --out lora_per_rank
    aurac train word_problems/lora --set learning_rate=2e-3 --set rank=8 --seed 7 --out lora8
    """  # noqa: D301
    from aurac.training.recipe import family_members, load_recipe

    if listing:
        _list_recipes(as_json=as_json)
        return
    if not recipe or not out:
        raise click.UsageError("a recipe and --out are needed (or --list)")
    given = {"seed": None if seed is None else str(seed), "base": base}
    loaded = load_recipe(recipe, overrides | {k: v for k, v in given.items() if v is not None})
    jobs = [(loaded, out)]
    if family:
        jobs = [(member, out / label) for label, member in family_members(loaded, family)]
        jobs = _left(jobs, force=options["force"])
    rows = [_trained(job, folder, options, quiet=as_json) for job, folder in jobs]
    if as_json:
        from aurac.training.job import is_main_process  # loads torch, which a list needs not

        if is_main_process():
            print_json(rows)


def _left(jobs: list[tuple[Recipe, Path]], *, force: bool) -> list[tuple[Recipe, Path]]:
    """The members of a family that are not trained yet; a RunFolderError where another is."""
    from aurac.adapters import load_adapter

    left = []
    for member, folder in jobs:
        if force or not folder.exists():
            left.append((member, folder))
            continue
        made_by = load_adapter(folder, lazy=True).recipe or {}
        if (made_by.get("sha256"), made_by.get("seed")) != (member.sha256, member.seed):
            raise RunFolderError(
                f"{folder} was trained by another recipe or seed",
                expected="the members of one family",
                fix="choose another --out or add --force",
            )
        click.echo(f"{folder}: already there", err=True)
    return left


def _trained(
    recipe: Recipe, folder: Path, options: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """Train one adapter, print its line, and return its row."""
    from aurac.training.job import is_main_process
    from aurac.training.job import train as run
    from aurac.training.trainer import newest_checkpoint

    try:
        done = run(recipe, folder, progress=True, **options)
    except KeyboardInterrupt:
        newest = newest_checkpoint(folder)
        text = "nothing is kept (--save-steps N would keep checkpoints)"
        if newest is not None:
            text = f"the same command with --resume goes on from step {newest[0]}"
        click.echo(f"aurac: interrupted; {text}", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    if not quiet and is_main_process():
        last = f", loss {done.losses[-1][1]:.4f}" if done.losses else ""
        rate = done.tokens / done.seconds
        click.echo(f"{folder}: {done.seconds:.0f} s, {rate:.0f} tokens/s{last}")
    row = {"folder": str(folder), "seconds": done.seconds, "tokens": done.tokens}
    return {**row, "losses": done.losses, "sha256": done.adapter.sha256}


def _list_recipes(*, as_json: bool) -> None:
    from aurac.training.recipe import built_in_recipes, load_recipe

    loaded = {name: load_recipe(name) for name in built_in_recipes()}
    rows = [
        {
            "name": name,
            "method": recipe.method,
            "rank": recipe.rank,
            "data": recipe.task or recipe.data,
            "base": recipe.base,
            "length": f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs",
            "batch_size": recipe.batch_size,
        }
        for name, recipe in loaded.items()
    ]
    if as_json:
        print_json(rows)
        return
    head = ["recipe", "method", "rank", "data", "base", "length", "examples a step"]
    print_table(head, [[str(value) for value in row.values()] for row in rows])
    click.echo("word_problems/* take 3 to 6 minutes on two CPU cores; the others need a GPU.")
