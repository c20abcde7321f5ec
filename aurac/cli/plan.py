"""`aurac plan`: how many documents and seeds a question needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click
import numpy as np

from aurac.cli._analysis import read_sources, table
from aurac.cli.options import print_json
from aurac.errors import UsageError

if TYPE_CHECKING:
    from aurac.stats.groups import Arm
    from aurac.stats.power import Question, Spread

QUESTIONS = {
    "difference": "to find a difference of {delta:g} between two adapters",
    "certificate": "to certify a rank that loses nothing within {delta:g}",
    "interval": "for an interval of ± {delta:g} around one adapter's AURAC",
}


@click.command()
@click.option(
    "--delta", type=float, required=True, help="Difference, loss or half-width in question."
)
@click.option(
    "--question", type=click.Choice(list(QUESTIONS)), default="difference", show_default=True
)
@click.option(
    "--pilot",
    type=click.Path(),
    help="A table, sample logs or a run folder to learn the spread from.",
)
@click.option("--between", help="ADAPTER,ADAPTER of the pilot; the first two by default.")
@click.option(
    "--rank",
    type=int,
    help="For a certificate: the rank in mind; the one below the largest by default.",
)
@click.option("--task", help="Task of the pilot; its first by default.")
@click.option("--metric", help="NAME,FILTER where the pilot holds several metrics.")
@click.option("--group", "groups", multiple=True, help="NAME=ADAPTER,ADAPTER: seeds of one recipe.")
@click.option("--axis", default="log2", show_default=True, help="log2 or linear.")
@click.option(
    "--sd", type=float, help="Without a pilot: sd over documents of the paired difference."
)
@click.option("--flip-rate", type=float, help="Or the share of documents whose outcome changes.")
@click.option(
    "--seed-sd",
    type=float,
    default=0.0,
    show_default=True,
    help="Sd of one arm's AURAC over training seeds.",
)
@click.option(
    "--seeds", default="1,3,5", show_default=True, help="Training seeds in each arm to plan for."
)
@click.option("--alpha", type=float, default=0.05, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option(
    "--comparisons", type=int, default=1, show_default=True, help="Tests that share alpha."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    *,
    delta: float,
    question: str,
    pilot: str | None,
    between: str | None,
    rank: int | None,
    task: str | None,
    metric: str | None,
    groups: tuple[str, ...],
    axis: str,
    sd: float | None,
    flip_rate: float | None,
    seed_sd: float,
    seeds: str,
    alpha: float,
    power: float,
    comparisons: int,
    as_json: bool,
) -> None:
    """How many documents and seeds a question needs, before any compute is spent.

    \b
    aurac plan --delta 0.02 --flip-rate 0.15
    aurac plan --delta 0.02 --pilot runs/pilot --between lora,matryoshka
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats import power as planning

    kind = cast("Question", question)
    if pilot is not None:
        arms = _arms(pilot, task, metric, groups)
        spread = _pilot_spread(arms, kind, between, rank, axis)
    else:
        spread = _assumed(sd, flip_rate, seed_sd, arms=2 if kind == "difference" else 1)
    rows = planning.plan(
        delta,
        spread,
        seeds=_counts(seeds),
        question=kind,
        alpha=alpha,
        power=power,
        comparisons=comparisons,
    )
    if as_json:
        plans = [{"seeds": r.seeds, "documents": r.documents, "reason": r.reason} for r in rows]
        asked = {"delta": delta, "question": question, "alpha": alpha, "power": power}
        print_json(asked | {"comparisons": comparisons, "spread": vars(spread), "plans": plans})
        return
    what = QUESTIONS[question].format(delta=delta)
    click.echo(f"Documents needed {what} (alpha {alpha:g}, power {power:g}; {spread.source}):")
    body = [
        [str(r.seeds), f"{r.documents:,}" if r.documents else f"none ({r.reason})"] for r in rows
    ]
    click.echo(table(["seeds in each arm", "documents"], body))
    if any(r.seeds == 1 for r in rows):
        click.echo("With one seed the answer is conditional on those checkpoints.")
    if any(r.seeds > 1 for r in rows) and spread.seed == 0.0:
        click.echo("No spread between seeds is known: give --seed-sd, or a pilot with several.")


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text!r}", expected="whole numbers such as 1,3,5") from None


def _assumed(sd: float | None, flip_rate: float | None, seed_sd: float, *, arms: int) -> Spread:
    from aurac.stats.power import Spread, spread_of_flips

    if (sd is None) == (flip_rate is None):
        raise UsageError("a plan needs a spread", expected="one of --pilot, --sd and --flip-rate")
    if sd is not None and not 0 < sd <= 1:
        raise UsageError(f"--sd {sd:g}", expected="a number in (0, 1]")
    if not 0 <= seed_sd <= 1:
        raise UsageError(f"--seed-sd {seed_sd:g}", expected="a number in [0, 1]")
    if flip_rate is not None:
        base = spread_of_flips(flip_rate)
        return Spread(base.document, seed_sd**2, 0.0, arms, base.source)
    return Spread((sd or 0.0) ** 2, seed_sd**2, 0.0, arms, f"sd {sd:g} over documents, assumed")


def _arms(pilot: str, task: str | None, metric: str | None, groups: tuple[str, ...]) -> list[Arm]:
    from aurac.stats.analysis import split_variants
    from aurac.stats.groups import gather

    found = read_sources([pilot], metric, groups)
    own, _ = split_variants(gather(found.curves, found.groups))
    chosen = own[0].task if task is None else task
    arms = [arm for arm in own if arm.task == chosen]
    if not arms:
        known = ", ".join(dict.fromkeys(str(arm.task) for arm in own))
        raise UsageError(f"the pilot has no task {task!r}", expected=f"one of {known}")
    if not all(arm.has_documents for arm in arms):
        raise UsageError("the pilot has no per-document outcomes", fix="give --sd or --flip-rate")
    return arms


def _pilot_spread(
    arms: list[Arm], question: Question, between: str | None, rank: int | None, axis: str
) -> Spread:
    from aurac.stats.paired import same_documents
    from aurac.stats.power import spread_of_pilot
    from aurac.stats.seeds import components

    names = [part.strip() for part in between.split(",")] if between else []
    known = {arm.name: arm for arm in arms}
    for name in names:
        if name not in known:
            raise UsageError(f"--between {name}", expected=f"some of {', '.join(known)}")
    chosen = [known[name] for name in names] or arms
    first = chosen[0]
    documents = first.first.n_docs or 0
    if question == "interval":
        return spread_of_pilot(components([first.areas(axis)], [1], first.layout()), documents)
    if question == "certificate":
        loss = _losses(first, rank)
        return spread_of_pilot(components([loss], [1], first.layout()), documents)
    if len(chosen) < 2:
        raise UsageError(
            "the pilot has one adapter", expected="two, whose difference is planned for"
        )
    second = chosen[1]
    order = same_documents(first.first, second.first)
    other = second.areas(axis) if order is None else second.areas(axis)[:, order]
    return spread_of_pilot(
        components([other, first.areas(axis)], [1, -1], first.layout()), documents
    )


def _losses(arm: Arm, rank: int | None) -> np.ndarray:
    top = max(arm.ranks)
    below = [r for r in arm.ranks if r < top]
    wanted = rank if rank is not None else max(below, default=0)
    if wanted not in below:
        raise UsageError(f"--rank {wanted}", expected=f"one of {below} below {top}")
    at, last = arm.ranks.index(wanted), arm.ranks.index(top)
    return np.stack(
        [c.outcomes[last] - c.outcomes[at] for c in arm.curves if c.outcomes is not None]
    )
