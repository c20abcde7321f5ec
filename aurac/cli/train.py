"""`aurac train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from aurac.cli.options import complete_recipes, pairs, print_json
from aurac.runs.interrupts import EXIT_INTERRUPTED


@click.command()
@click.argument("recipe", required=False, shell_complete=complete_recipes)
@click.option("--base", help="Base model, if another than the recipe's.")
@click.option(
    "--set", "overrides", multiple=True, help="KEY=VALUE: change one setting of the recipe."
)
@click.option("--seed", type=int, help="Seed, if another than the recipe's.")
@click.option("--out", type=click.Path(), help="Folder of the adapter.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps.")
@click.option("--force", is_flag=True, help="Replace what is at --out, and start over.")
@click.option(
    "--save-steps",
    type=click.IntRange(min=0),
    default=0,
    help="Write a trainer checkpoint every so many steps.",
)
@click.option("--resume", is_flag=True, help="Go on from the newest trainer checkpoint.")
@click.option(
    "--sweep",
    is_flag=True,
    help="Train every point of the recipe's sweep, each in a folder of its own below --out.",
)
@click.option("--list", "listing", is_flag=True, help="List the built-in recipes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train(
    recipe: str | None,
    base: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    out: str | None,
    device: str,
    force: bool,
    save_steps: int,
    resume: bool,
    sweep: bool,
    listing: bool,
    as_json: bool,
) -> None:
    """Train an adapter from a recipe (a built-in name or a .yaml file).

    \b
    aurac train --list
    aurac train word_problems/matryoshka --out my_adapter
    aurac train word_problems/lora --set learning_rate=2e-3 --set rank=8 --seed 7 --out lora8
    """  # noqa: D301
    from aurac.training.recipe import built_in_recipes, load_recipe, sweep_points

    if listing:
        known = list(built_in_recipes())
        if as_json:
            print_json(known)
        else:
            click.echo("\n".join(known))
        return
    if not recipe or not out:
        raise click.UsageError("a recipe and --out are needed (or --list)")
    loaded = load_recipe(recipe, pairs(overrides, "--set"))
    if seed is not None:
        loaded = replace(loaded, seed=seed)
    from aurac.training.job import train as run

    jobs = [(loaded, Path(out))]
    if sweep:
        jobs = [(point, Path(out) / label) for label, point in sweep_points(loaded)]
        jobs = [(point, folder) for point, folder in jobs if force or not folder.exists()]
    rows = []
    for job, folder in jobs:
        try:
            done = run(
                job,
                folder,
                base=base,
                device=device,
                force=force,
                resume=resume,
                save_steps=save_steps,
                progress=True,
            )
        except KeyboardInterrupt:
            click.echo(_interrupted(folder), err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        row = {"folder": str(folder), "seconds": done.seconds, "tokens": done.tokens}
        rows.append({**row, "losses": done.losses, "sha256": done.adapter.sha256})
        if not as_json:
            last = f", loss {done.losses[-1][1]:.4f}" if done.losses else ""
            rate = done.tokens / done.seconds
            click.echo(f"{folder}: {done.seconds:.0f} s, {rate:.0f} tokens/s{last}")
    if as_json:
        print_json(rows)


def _interrupted(folder: Path) -> str:
    """What is left of an interrupted training, and how to go on."""
    from aurac.training.checkpoints import newest_checkpoint

    newest = newest_checkpoint(folder)
    if newest is None:
        return "aurac: interrupted; nothing is kept (--save-steps N would keep checkpoints)"
    return f"aurac: interrupted; the same command with --resume goes on from step {newest[0]}"
