"""`aurac plan`: how many documents and seeds a question needs."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

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
    "difference": "to find a difference of {delta} between two adapters",
    "non-inferiority": "to show that a rank which loses nothing loses less than {delta}",
    "interval": "for an interval of ± {delta} around one adapter's AURAC",
}
_FORMER = {"certificate": "non-inferiority"}  # a name that the question had


@click.command()
@click.option(
    "--delta",
    "--margin",
    "delta",
    type=float,
    required=True,
    help="Difference, margin or half-width in question, a fraction such as 0.02.",
)
@click.option(
    "--question",
    type=click.Choice([*QUESTIONS, *_FORMER]),
    default="difference",
    show_default=True,
    metavar="|".join(QUESTIONS),
    callback=lambda _context, _option, value: _FORMER.get(value, value),
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
    help="For non-inferiority: the rank in mind; the one below the largest by default.",
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
    help="Sd over training seeds of one recipe's AURAC (for non-inferiority: of the loss); 0, or "
    "the pilot's, by default.",
)
@click.option(
    "--seeds", default="1,3,5", show_default=True, help="Training seeds of each recipe to plan for."
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
    seeds: str,
    alpha: float,
    power: float,
    comparisons: int,
    seed: int,
    as_json: bool,
    **assumed: Any,
) -> None:
    """How many documents and seeds a question needs, before any compute is spent.

    Studies of that size are simulated with the tests that answer the question. With a pilot the
    answer is a range: for the spread that was seen, and for its upper 95 % confidence limits.

    \b
    aurac plan --delta 0.02 --flip-rate 0.15
    aurac plan --delta 0.02 --pilot runs/pilot --between lora,matryoshka
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats import power as planning

    spread = _spread(cast("Question", question), **assumed)
    with _progress() as step:
        rows = planning.plan(
            delta,
            spread,
            seeds=_counts(seeds),
            question=cast("Question", question),
            alpha=alpha,
            power=power,
            comparisons=comparisons,
            rng=np.random.default_rng(seed),
            step=step,
        )
    if as_json:
        request = {"delta": delta, "question": question, "alpha": alpha, "power": power}
        plans = [asdict(row) for row in rows]
        print_json(request | {"comparisons": comparisons, "spread": asdict(spread), "plans": plans})
        return
    from aurac.curves.display import points

    what = QUESTIONS[question].format(delta=points(delta))
    click.echo(f"Documents needed {what} (alpha {alpha:g}, power {power:g}; {spread.source}):")
    click.echo("\n".join(_lines(rows, spread)))


def _lines(rows: Sequence[Plan], spread: Spread) -> list[str]:
    """The table of a plan and what to know about it."""
    head = ["seeds of each recipe", "documents", "simulated power"]
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
            "A pilot is a sample too; the last column is for its upper 95 % confidence limits."
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

    bar = Progress(
        SpinnerColumn(),
        TextColumn("simulating studies ({task.completed} sizes so far)"),
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


def _spread(
    question: Question,
    *,
    pilot: str | None,
    sd: float | None,
    flip_rate: float | None,
    seed_sd: float | None,
    **which: Any,
) -> Spread:
    """The spread of a pilot, or the one that the user assumes; `seed_sd` takes its place in both.

    Raises:
        UsageError: No spread, or one that does not fit the question.
    """
    if seed_sd is not None and not 0 <= seed_sd <= 1:
        raise UsageError(f"--seed-sd {seed_sd:g}", expected="a number in [0, 1]")
    if pilot is None:
        spread = _assumed(sd, flip_rate, question)
    else:
        spread = _piloted(pilot, question, **which)
    if seed_sd is None:
        return spread
    upper = None if spread.upper is None else replace(spread.upper, seed=seed_sd**2)
    return replace(spread, seed=seed_sd**2, upper=upper)


def _assumed(sd: float | None, flip_rate: float | None, question: Question) -> Spread:
    from aurac.stats.spread import Spread, spread_of_flips

    if (sd is None) == (flip_rate is None):
        raise UsageError("a plan needs a spread", expected="one of --pilot, --sd and --flip-rate")
    groups = 2 if question == "difference" else 1
    if sd is not None:
        if not 0 < sd <= 1:
            raise UsageError(f"--sd {sd:g}", expected="a number in (0, 1]")
        return Spread(sd**2, groups=groups, source=f"sd {sd:g} over documents, assumed")
    if question == "interval":
        raise UsageError("--flip-rate for an interval of one adapter", expected="--sd or --pilot")
    return replace(spread_of_flips(flip_rate or 0.0), groups=groups)


def _piloted(
    pilot: str,
    question: Question,
    *,
    between: str | None,
    rank: int | None,
    task: str | None,
    metric: str | None,
    groups: tuple[str, ...],
    axis: str,
) -> Spread:
    from aurac.stats.groups import together
    from aurac.stats.seeds import components
    from aurac.stats.spread import spread_of_pilot

    chosen = _between(_of_pilot(pilot, task, metric, groups), between)
    if question == "difference":
        if len(chosen) < 2:
            raise UsageError(
                "the pilot has one adapter", expected="two, whose difference is planned for"
            )
        first, second = together(chosen[:2])
        scores = [second.areas(axis), first.areas(axis)]
        changes = scores[0][0] - scores[1][0]
    else:
        first = chosen[0]
        scores = [first.areas(axis) if question == "interval" else _losses(first, rank)]
        changes = scores[0][0]
    parts = components(scores, [1, -1][: len(scores)], first.layout)
    alone = question == "interval" or first.layout.clusters is not None
    return spread_of_pilot(parts, first.layout.n, changes=None if alone else changes)


def _of_pilot(
    pilot: str, task: str | None, metric: str | None, groups: tuple[str, ...]
) -> list[RecipeGroup]:
    """The adapters of a pilot on one task, each in its default truncation."""
    from aurac.stats.groups import defaults, gather

    source = read_sources([pilot], metric, groups)
    every, _ = defaults(gather(source.curves, source.groups))
    wanted = every[0].task if task is None else task
    result = [group for group in every if group.task == wanted]
    if not result:
        known = ", ".join(dict.fromkeys(str(group.task) for group in every))
        raise UsageError(f"the pilot has no task {task!r}", expected=f"one of {known}")
    if not all(group.has_documents for group in result):
        raise UsageError("the pilot has no per-document outcomes", fix="give --sd or --flip-rate")
    return result


def _between(groups: list[RecipeGroup], between: str | None) -> list[RecipeGroup]:
    known = {group.name: group for group in groups}
    names = [part.strip() for part in between.split(",")] if between else list(known)
    for name in names:
        if name not in known:
            raise UsageError(f"--between {name}", expected=f"some of {', '.join(known)}")
    return [known[name] for name in names]


def _losses(group: RecipeGroup, rank: int | None) -> np.ndarray:
    """(S, n) losses of one rank against the largest."""
    top = max(group.ranks)
    below = [r for r in group.ranks if r < top]
    wanted = rank if rank is not None else max(below, default=0)
    if wanted not in below:
        raise UsageError(f"--rank {wanted}", expected=f"one of {below} below {top}")
    return group.scores(top) - group.scores(wanted)
