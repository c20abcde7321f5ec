"""`aurac plan`: how many examples and seeds find a difference."""

from __future__ import annotations

from typing import Any

import click

from aurac.cli import shared
from aurac.cli.shared import FRACTION, Numbers, command


@command()
@click.option(
    "--difference", type=FRACTION, required=True, help="Of two AURACs, a fraction such as 0.02."
)
@click.option(
    "--flips", type=FRACTION, required=True, help="Share of examples whose outcome differs."
)
@click.option(
    "--seeds", type=Numbers(), default="1,3,5", show_default=True, help="Seeds of each recipe."
)
@click.option(
    "--seed-sd", type=float, default=0.01, show_default=True, help="Sd over seeds of one's AURAC."
)
@click.option("--power", type=FRACTION, default=0.8, show_default=True, help="Chance to find it.")
@click.option("--tests", type=click.IntRange(1), default=1, help="Differences in the same table.")
@shared.as_json
def plan(difference: float, seeds: tuple[int, ...], as_json: bool, **assumed: Any) -> None:
    """How many examples and seeds find a difference between two adapters.

    \b
    aurac plan --difference 0.02 --flips 0.15
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats.planning import Assumptions, examples_for

    found = [examples_for(difference, Assumptions(seeds=count, **assumed)) for count in seeds]
    if as_json:
        shared.print_json([{"seeds": s, "examples": n} for s, n in zip(seeds, found, strict=True)])
        return
    click.echo(f"Examples to find a difference of {100 * difference:g} points:\n")
    words = ["no number suffices" if number is None else f"{number:,}" for number in found]
    shared.print_table(("seeds of each recipe", "examples"), zip(seeds, words, strict=True))
