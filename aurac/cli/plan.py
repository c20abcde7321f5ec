"""`aurac plan`: how many documents and seeds a question needs."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

import click
import numpy as np

from aurac.cli._analysis import read_sources, table
from aurac.cli.options import print_json
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aurac.stats.groups import RecipeGroup
    from aurac.stats.power import Plan, Question
    from aurac.stats.spread import Spread

_PATIENCE = 2.0  # seconds before the bar shows

QUESTIONS = {
    "difference": "to find a difference of {delta:g} between two adapters",
    "certificate": "to show a rank that loses nothing non-inferior at a margin of {delta:g}",
    "interval": "for an interval of ± {delta:g} around one adapter's AURAC",
}


@click.command()
@click.option(
    "--delta",
    "--margin",
    "delta",
    type=float,
    required=True,
    help="Difference, margin or half-width in question.",
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
    help="Sd of one arm's AURAC (for a certificate: of the loss) over training seeds; 0, or the "
    "pilot's, by default.",
)
@click.option(
    "--seeds", default="1,3,5", show_default=True, help="Training seeds in each arm to plan for."
)
@click.option("--alpha", type=float, default=0.05, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option(
    "--comparisons", type=int, default=1, show_default=True, help="Tests that share alpha."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the simulation.")
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
    seed_sd: float | None,
    seeds: str,
    alpha: float,
    power: float,
    comparisons: int,
    seed: int,
    as_json: bool,
) -> None:
    """How many documents and seeds a question needs, before any compute is spent.

    Studies of that size are simulated with the tests that answer the question. With a pilot the
    answer is a range: for the spread that was seen, and for its upper 95 % confidence limits.

    \b
    aurac plan --delta 0.02 --flip-rate 0.15
    aurac plan --delta 0.02 --pilot runs/pilot --between lora,matryoshka
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats import power as planning

    kind = cast("Question", question)
    if seed_sd is not None and not 0 <= seed_sd <= 1:
        raise UsageError(f"--seed-sd {seed_sd:g}", expected="a number in [0, 1]")
    if pilot is not None:
        arms = _arms(pilot, task, metric, groups)
        spread = _with_seed_sd(_pilot_spread(arms, kind, between, rank, axis), seed_sd)
    else:
        spread = _assumed(sd, flip_rate, seed_sd or 0.0, kind)
    with _progress() as step:
        rows = planning.plan(
            delta,
            spread,
            seeds=_counts(seeds),
            question=kind,
            alpha=alpha,
            power=power,
            comparisons=comparisons,
            rng=np.random.default_rng(seed),
            step=step,
        )
    if as_json:
        asked = {"delta": delta, "question": question, "alpha": alpha, "power": power}
        plans = [asdict(row) for row in rows]
        print_json(asked | {"comparisons": comparisons, "spread": asdict(spread), "plans": plans})
        return
    what = QUESTIONS[question].format(delta=delta)
    click.echo(f"Documents needed {what} (alpha {alpha:g}, power {power:g}; {spread.source}):")
    click.echo("\n".join(_lines(rows, spread)))


def _lines(rows: Sequence[Plan], spread: Spread) -> list[str]:
    """The table of a plan and what to know about it."""
    head = ["seeds in each arm", "documents", "simulated power"]
    piloted = spread.upper is not None
    body = [
        [
            str(row.seeds),
            "none" if row.documents is None else f"{row.documents:,}",
            "–" if row.power is None else f"{row.power:.2f} ± {row.power_se or 0.0:.2f}",
            *([("none" if row.most is None else f"{row.most:,}")] if piloted else []),
        ]
        for row in rows
    ]
    lines = [table([*head, *(["at the pilot's upper limits"] if piloted else [])], body)]
    lines += [f"{_seeds(row.seeds)}: {row.reason}." for row in rows if row.reason]
    lines += [
        f"{_seeds(row.seeds)}, at the pilot's upper limits: {row.most_reason}."
        for row in rows
        if row.most_reason and not row.reason
    ]
    if piloted:
        lines.append(
            "The pilot is a sample itself: its spread may be as large as the upper 95 % confidence "
            "limits, which need the last column."
        )
    if any(row.seeds == 1 for row in rows):
        lines.append("With one seed the answer is conditional on those checkpoints.")
    if any(row.seeds > 1 for row in rows) and spread.seed == 0.0:
        lines.append("No spread between seeds is known: give --seed-sd, or a pilot with several.")
    return lines


def _seeds(count: int) -> str:
    return f"With {count} seed{'s' if count > 1 else ''}"


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error, from two seconds on."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    words = "simulating studies ({task.completed} sizes so far)"
    bar = Progress(
        SpinnerColumn(),
        TextColumn(words),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task("", total=None)
    began = time.monotonic()

    def step() -> None:
        bar.advance(task)
        if time.monotonic() - began > _PATIENCE:
            bar.start()

    try:
        yield step
    finally:
        bar.stop()


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text!r}", expected="whole numbers such as 1,3,5") from None


def _assumed(
    sd: float | None, flip_rate: float | None, seed_sd: float, question: Question
) -> Spread:
    from aurac.stats.spread import Spread, spread_of_flips

    if (sd is None) == (flip_rate is None):
        raise UsageError("a plan needs a spread", expected="one of --pilot, --sd and --flip-rate")
    if sd is not None and not 0 < sd <= 1:
        raise UsageError(f"--sd {sd:g}", expected="a number in (0, 1]")
    arms = 2 if question == "difference" else 1
    if flip_rate is None:
        words = f"sd {sd:g} over documents, assumed"
        return Spread((sd or 0.0) ** 2, seed_sd**2, 0.0, arms, words)
    if question == "interval":
        raise UsageError("--flip-rate for an interval of one adapter", expected="--sd or --pilot")
    return replace(spread_of_flips(flip_rate), seed=seed_sd**2, arms=arms)


def _with_seed_sd(spread: Spread, seed_sd: float | None) -> Spread:
    """The spread with another one between seeds, where the user gives it."""
    if seed_sd is None:
        return spread
    upper = None if spread.upper is None else replace(spread.upper, seed=seed_sd**2)
    return replace(spread, seed=seed_sd**2, upper=upper)


def _arms(
    pilot: str, task: str | None, metric: str | None, groups: tuple[str, ...]
) -> list[RecipeGroup]:
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
    arms: list[RecipeGroup], question: Question, between: str | None, rank: int | None, axis: str
) -> Spread:
    from aurac.stats.groups import same_documents
    from aurac.stats.seeds import components
    from aurac.stats.spread import spread_of_pilot

    names = [part.strip() for part in between.split(",")] if between else []
    known = {arm.name: arm for arm in arms}
    for name in names:
        if name not in known:
            raise UsageError(f"--between {name}", expected=f"some of {', '.join(known)}")
    chosen = [known[name] for name in names] or arms
    first, layout = chosen[0], chosen[0].layout()
    documents = first.first.n_docs or 0
    if question == "interval":
        return spread_of_pilot(components([first.areas(axis)], [1], layout), documents)
    if question == "certificate":
        loss = _losses(first, rank)
        parts, changes = components([loss], [1], layout), loss[0]
    else:
        if len(chosen) < 2:
            raise UsageError(
                "the pilot has one adapter", expected="two, whose difference is planned for"
            )
        order = same_documents(first.first, chosen[1].first)
        own, other = first.areas(axis), chosen[1].areas(axis)
        other = other if order is None else other[:, order]
        parts, changes = components([other, own], [1, -1], layout), other[0] - own[0]
    single = changes if layout.clusters is None else None
    return spread_of_pilot(parts, documents, changes=single)


def _losses(arm: RecipeGroup, rank: int | None) -> np.ndarray:
    top = max(arm.ranks)
    below = [r for r in arm.ranks if r < top]
    wanted = rank if rank is not None else max(below, default=0)
    if wanted not in below:
        raise UsageError(f"--rank {wanted}", expected=f"one of {below} below {top}")
    at, last = arm.ranks.index(wanted), arm.ranks.index(top)
    return np.stack(
        [c.outcomes[last] - c.outcomes[at] for c in arm.curves if c.outcomes is not None]
    )
