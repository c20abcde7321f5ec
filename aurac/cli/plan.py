"""`aurac plan`: how many examples and seeds find a difference, or show a loss to be small."""

from __future__ import annotations

from typing import Any

import click

from aurac.cli import shared
from aurac.cli.shared import command, fraction, whole_numbers
from aurac.errors import UsageError


@command()
@click.option("--difference", type=fraction, help="Difference of AURAC to find; 0.02 is 2 points.")
@click.option(
    "--flips", type=fraction, help="Share of examples that only one of the two answers right."
)
@shared.margin()
@click.option(
    "--seeds", type=whole_numbers, default="1,3,5", show_default=True,
    help="Training seeds of each recipe, a row for each number.",
)  # fmt: skip
@click.option(
    "--seed-sd", type=float, default=0.01, show_default=True,
    help="Standard deviation of a recipe's AURAC over seeds.",
)  # fmt: skip
@click.option(
    "--power", type=fraction, default=0.8, show_default=True,
    help="Chance of finding the difference.",
)  # fmt: skip
@click.option(
    "--tests", type=click.IntRange(1), default=1, show_default=True,
    help="Differences in the same table.",
)  # fmt: skip
@shared.as_json
def plan(
    difference: float | None,
    flips: float | None,
    margin: float | None,
    seeds: tuple[int, ...],
    as_json: bool,
    **assumed: Any,
) -> None:
    """Say how many examples and seeds a difference between two adapters needs, or a margin.

    `aurac compare --details` prints what to assume: the wins and losses of a pair, which are the
    examples that only one answers right, and the standard deviation over seeds.

    \b
    aurac plan --difference 0.02 --flips 0.15
    aurac plan --margin 0.02
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.curves.numbers import points, upper
    from aurac.stats.planning import Assumptions, examples_for, examples_for_margin, seeds_for

    if margin is not None and difference is None and flips is None:
        needed = examples_for_margin(margin)
        if as_json:
            shared.print_json({"margin": margin, "examples": needed})
        else:
            shown = f"a rank that loses nothing is shown to lose at most {100 * margin:g} points"
            click.echo(f"With {needed:,} examples or more {shown}.")
        return
    if margin is not None or difference is None or flips is None:
        raise UsageError("plan needs --difference and --flips, or --margin")
    each = [Assumptions(flips=flips, seeds=count, **assumed) for count in seeds]
    found = [examples_for(difference, assumptions) for assumptions in each]
    if as_json:
        shared.print_json([{"seeds": s, "examples": n} for s, n in zip(seeds, found, strict=True)])
        return
    click.echo(f"Examples to find a difference of {100 * difference:g} points:\n")
    words = ["no number suffices" if number is None else f"{number:,}" for number in found]
    shared.print_table(("seeds of each recipe", "examples"), zip(seeds, words, strict=True))
    few = [one for one, number in zip(each, found, strict=True) if number is None]
    if few:
        shown = ", ".join(f"{one.seeds} show {upper(one.least)} points or more" for one in few)
        click.echo(
            f"\nThe seeds of a recipe differ by {points(few[0].seed_sd)} (--seed-sd), however many "
            f"examples there are: {shown}. {points(difference)} need "
            f"{seeds_for(difference, few[0])} seeds of each recipe."
        )
