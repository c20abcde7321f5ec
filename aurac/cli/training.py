"""`aurac train` and `aurac study`."""

from __future__ import annotations

import functools
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import (
    NOT_SHOWN,
    as_table,
    command,
    numbers,
    options,
    pairs,
    parsed,
    print_json,
    print_result,
    repeated,
)
from aurac.errors import RunFolderError, UsageError
from aurac.runs.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from aurac.study.design import Study
    from aurac.training.job import TrainingResult
    from aurac.training.recipe import Recipe


def _complete_recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    root = Path(__file__).parents[1] / "training" / "recipes"  # importing it would load torch
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


@command(short="base set out device family seed save-steps resume list")
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
    resume: bool,
    save_steps: int,
    listing: bool,
    as_json: bool,
) -> None:
    """Train an adapter from a recipe (a built-in name or a .yaml file).

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
        lacking = [name for name, has in (("recipe", recipe), ("--out FOLDER", out)) if not has]
        raise click.UsageError(f"no {' and no '.join(lacking)}; --list shows the recipes")
    given = {"seed": None if seed is None else str(seed), "base": base}
    loaded = load_recipe(recipe, overrides | {k: v for k, v in given.items() if v is not None})
    jobs = [(loaded, out)]
    if family:
        jobs = [(member, out / label) for label, member in family_members(loaded, family)]
        jobs = _left(jobs, force=force)
    from aurac.training.job import is_main_process, train  # loads transformers

    run = functools.partial(
        train, device=device, force=force, resume=resume, save_steps=save_steps, progress=True
    )
    done = [_trained(run, job, folder, quiet=as_json) for job, folder in jobs]
    if not is_main_process() or not (done or as_json):
        return
    rows = [
        {
            "folder": folder,
            "seconds": result.seconds,
            "tokens": result.tokens,
            "losses": result.losses,
            "sha256": result.adapter.sha256,
        }
        for (_, folder), result in zip(jobs, done, strict=True)
    ]
    if as_json:
        print_json(rows)
    else:
        click.echo(f"next: aurac compare {shlex.quote(str(out))} --tasks {loaded.task or 'TASK'}")


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
    run: Callable[[Recipe, Path], TrainingResult], recipe: Recipe, folder: Path, *, quiet: bool
) -> TrainingResult:
    """Train one adapter, and print its line."""
    from aurac.training.job import is_main_process
    from aurac.training.trainer import newest_checkpoint

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a scheduler
    try:
        done = run(recipe, folder)
    except KeyboardInterrupt:
        newest = newest_checkpoint(folder)
        text = "nothing is kept (--save-steps N would keep checkpoints)"
        if newest is not None:
            text = f"the same command with --resume goes on from step {newest[0]}"
        click.echo(f"aurac: interrupted; {text}", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if not quiet and is_main_process():
        last = f", loss {done.losses[-1][1]:.4f}" if done.losses else ""
        rate = done.tokens / done.seconds
        click.echo(f"{folder}: {done.seconds:.0f} s, {rate:.0f} tokens/s{last}")
    return done


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
    head = ["recipe", "method", "rank", "data", "base", "length × examples a step"]
    listed = [[*values, f"{length} × {size}"] for *values, length, size in map(dict.values, rows)]
    times = "word_problems/* take 3 to 6 minutes on two CPU cores; the others need a GPU."
    text = f"{as_table(head, listed)}\n{times}"
    print_result(rows, text, as_json=as_json)


@command(
    epilog="Exit codes: 0 done, 2 bad input, 3 some cells failed, 4 --check found other outcomes, "
    "130 interrupted."
)
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")
@options(
    """
    --out PATH: Folder; runs/NAME by default.
    --retry-failed
    --device
    --dry-run FLAG: Say what is done and left, and how long it takes.
    --report FLAG: Write the report again, without a model.
    --check <N> INTEGER>=1: Train N adapters of a finished study again, and compare their outcomes
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
    from aurac.study import load_study

    if sum((dry_run, report, check is not None)) > 1:
        raise UsageError("--dry-run, --report and --check together", expected="one of them")
    loaded = load_study(study)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, study, folder, as_json=as_json)
        return
    if check:
        _check(loaded, study, folder, check, device, as_json=as_json)
        return
    from aurac.records.results_file import Results
    from aurac.study.plan import edges_in, rates_in, read_state
    from aurac.study.summary import place_of, summarise

    if report:
        state = read_state(folder)
    else:
        from aurac.study.execution import run_study

        state = run_study(
            loaded, study, folder, device=device, retry_failed=retry_failed, progress=True, say=_say
        )
    written = summarise(loaded, study, folder, state)
    if as_json:
        edges = edges_in(loaded, state)
        print_json({"report": str(written), "rates": rates_in(loaded, state), "edges": edges})
    else:
        click.echo(str(written))
    places = (place_of(task, state, folder) for task in loaded.tasks)
    if any(Results.read(place).failures for place in places):
        raise click.exceptions.Exit(3)


_say = functools.partial(click.echo, err=True)


def _check(
    loaded: Study, study: Path, folder: Path, count: int, device: str, *, as_json: bool
) -> None:
    from aurac.study.check import check_study

    rows = check_study(loaded, study, folder, count, device=device, progress=True, say=_say)
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
    counts = {
        "trainings for the search": plan.searches,
        "trainings for the results": plan.trainings,
    }
    every = sum(row.done for row in plan.methods), sum(row.total for row in plan.methods)
    if both := plan.searches[1] + plan.trainings[1] - every[1]:
        counts[f"trainings in all ({both} of them for both)"] = every
    counts["cells"] = plan.cells
    for name, (done, total) in counts.items():
        click.echo(f"{name}: {total}, {done} done")
    rows = []
    for row in plan.methods:
        pace = duration(row.pace) if row.pace else "–"
        rows.append([row.task, row.method, str(row.total), str(row.done), pace])
    click.echo(as_table(["task", "method", "trainings", "done", "time of one"], rows))
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
