"""`aurac plan`: how many documents and seeds a question needs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np

from aurac.cli._analysis import AXIS_HELP, parse_groups, table
from aurac.cli.options import print_json, refuse_given, whole_numbers
from aurac.curves.display import declared
from aurac.stats.seeds import INDEPENDENT, PAIRED
from aurac.terminal import drawn, stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aurac.runs.pace import Pace
    from aurac.stats.power import Plan, Question
    from aurac.stats.spread import Spread

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
@click.option("--task", help="Task of the pilot and of --pace; their first by default.")
@click.option(
    "--pace",
    type=click.Path(),
    help="A finished run that says how long a document takes. Default: the pilot.",
)
@click.option("--metric", help="NAME,FILTER where the pilot holds several metrics.")
@click.option("--group", "groups", multiple=True, help="NAME=ADAPTER,ADAPTER: seeds of one recipe.")
@click.option("--axis", default="log2", show_default=True, help=AXIS_HELP)
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
@click.option(
    "--paired-seeds/--independent-seeds",
    default=True,
    show_default=True,
    help="Of a difference: whether both recipes have the same seeds, data and order, so that it is "
    "tested within each seed.",
)
@click.option("--alpha", type=float, default=0.05, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option(
    "--comparisons", type=int, default=1, show_default=True, help="Tests that share alpha."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the simulation."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    *,
    delta: float,
    question: str,
    seeds: str,
    seed: int,
    pace: str | None,
    paired_seeds: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """How many documents and seeds a question needs, before any compute is spent.

    Studies of that size are simulated with the tests that answer the question. With a pilot the
    answer is a range: for the spread that was seen, and for its upper 95 % confidence limits.

    \b
    aurac plan --delta 0.02 --flip-rate 0.15
    aurac plan --delta 0.02 --pilot runs/pilot --between lora,matryoshka
    aurac plan --delta 0.02 --flip-rate 0.15 --pace runs/pilot
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.pilot import find_spread
    from aurac.runs.pace import find_pace
    from aurac.stats import power as planning

    timed = find_pace(pace, rest["pilot"], rest["task"])
    demands = {name: rest.pop(name) for name in ("alpha", "power", "comparisons")}
    known = _assumed(pace, question, **rest)
    spread = find_spread(cast("Question", question), paired_seeds=paired_seeds, **known)
    counts = whole_numbers(seeds, "--seeds", such_as="1,3,5") or ()
    how: dict[str, Any] = {**demands, "question": question, "rng": np.random.default_rng(seed)}
    with _progress() as step:
        rows = planning.plan(
            delta, spread, seeds=counts, step=step, paired_seeds=paired_seeds, **how
        )
    early = _early(rows, question, **demands)
    pairing = None
    if question == "difference" and any(row.seeds > 1 for row in rows):
        pairing = PAIRED if paired_seeds else INDEPENDENT
    if as_json:
        plans = [asdict(row) | {"seconds": _seconds(row, question, timed)} for row in rows]
        content = {"delta": delta, "question": question, **demands, "spread": asdict(spread)}
        content |= {
            "pairing": pairing,
            "plans": plans,
            "pace": asdict(timed) if timed else None,
            "early": early,
        }
        print_json(content)
        return
    what = QUESTIONS[question].format(delta=declared(delta))
    level = f"alpha {demands['alpha']:g}, power {demands['power']:g}"
    click.echo(f"Documents needed {what} ({level}; {spread.source}):")
    lines = _lines(rows, spread, question, timed)
    lines += [*_seed_lines(rows, spread, pairing), _paced(timed, question)]
    click.echo("\n".join(lines + ([_early_text(early, question, timed)] if early else [])))


def _assumed(pace: str | None, question: str, **options: Any) -> dict[str, Any]:
    """What `find_spread` is told: of a pilot, or what is assumed without one."""
    if question != "non-inferiority":
        refuse_given(["rank"], f"for the question {question}", "give --question non-inferiority")
    if options["pilot"] is None:
        of_pilots = ["between", "rank", "metric", "groups", "axis"]
        of_pilots += ["task"] if pace is None else []
        refuse_given(of_pilots, "without a pilot", "give --pilot, too")
        return {name: options[name] for name in ("sd", "flip_rate", "seed_sd")}
    between = [name.strip() for name in (options["between"] or "").split(",") if name]
    return {**options, "groups": parse_groups(options["groups"]), "between": between}


def _early(
    rows: Sequence[Plan], question: str, alpha: float, power: float, comparisons: int
) -> dict[str, float | None] | None:
    """What stopping early needs, of the documents that one seed needs as the budget.

    The budget, the probability of an answer, and the mean number of documents: where the truth is
    as assumed, without a difference (for non-inferiority with a loss of the margin), and at twice
    the difference (None for non-inferiority).
    """
    from scipy.special import ndtri

    from aurac.stats.design import Design

    total = next((row.documents for row in rows if row.seeds == 1), None)
    if question == "interval" or total is None:
        return None
    margin = question == "non-inferiority"
    design = Design(alpha=alpha, margin=0.5 if margin else None, one_sided=margin)
    drift = float(ndtri(power) - ndtri(design.error / design.sides / comparisons))
    shown, share = design.expected(drift, comparisons)
    none, twice = (total * design.expected(x, comparisons)[1] for x in (0.0, 2 * drift))
    early = {"budget": total, "power": shown, "documents": share * total, "none": none}
    return early | {"twice": None if margin else twice}


def _early_text(early: dict[str, float | None], question: str, pace: Pace | None) -> str:
    from aurac.runs.progress import duration

    amounts = {
        name: f"{number:,.0f}" + (f" ({duration(pace.of(number, question))})" if pace else "")
        for name, number in early.items()
        if number is not None
    }
    margin = "twice" not in amounts
    command = "recommend" if margin else "compare"
    other = "with a loss of the margin" if margin else "without a difference"
    twice = "" if margin else f", {amounts['twice']} at twice the difference"
    return (
        f"One seed with `aurac {command} --until decided --budget {early['budget']}`: "
        f"{amounts['documents']} of the {amounts['budget']} documents on average (power "
        f"{early['power']:.2f}){twice}, {amounts['none']} {other}."
    )


def _paced(pace: Pace | None, question: str) -> str:
    """Where the times come from, or that there are none."""
    if pace is None:
        return "No time: no pace is known. --pace RUN takes that of a finished run."
    ranks = "two ranks" if question == "non-inferiority" else f"{pace.ranks} ranks and the base"
    return (
        f"Times: of the evaluation at {ranks} in one process, without starting, at the pace of "
        f"{pace.source}: {1000 * pace.seconds:.3g} ms for a document at one rank."
    )


def _seconds(row: Plan, question: str, pace: Pace | None) -> float | None:
    if pace is None or row.documents is None:
        return None
    return pace.of(row.documents, question, row.seeds)


def _lines(rows: Sequence[Plan], spread: Spread, question: str, pace: Pace | None) -> list[str]:
    """The table of a plan and what to know about it."""
    from aurac.runs.progress import duration

    head = ["seeds of each recipe", "documents", "simulated power"]
    piloted = spread.upper is not None
    head += [*(["time"] if pace else []), *(["at the pilot's upper limits"] if piloted else [])]
    body = []
    for row in rows:
        cells = [str(row.seeds), "none" if row.documents is None else f"{row.documents:,}"]
        cells.append("–" if row.power is None else f"{row.power:.2f} ± {row.power_se or 0.0:.2f}")
        if pace:
            seconds = _seconds(row, question, pace)
            cells.append("–" if seconds is None else duration(seconds))
        if piloted:
            cells.append("none" if row.most is None else f"{row.most:,}")
        body.append(cells)
    lines, limited = [table(head, body)], []
    for row in rows:
        seeds = f"With {row.seeds} seed{'s' if row.seeds > 1 else ''}"
        if row.reason:
            lines.append(f"{seeds}: {row.reason}.")
        elif row.most_reason:
            limited.append(f"{seeds}, at the pilot's upper limits: {row.most_reason}.")
    lines += limited
    if piloted:
        lines.append(
            "A pilot is a sample too; the last column is for its upper 95 % confidence limits."
        )
    if any(row.seeds == 1 for row in rows):
        lines.append("With one seed the answer is conditional on those checkpoints.")
    return lines


def _seed_lines(rows: Sequence[Plan], spread: Spread, pairing: str | None) -> Iterator[str]:
    """What is assumed of several seeds."""
    if all(row.seeds == 1 for row in rows):
        return
    if spread.seed == 0.0:
        yield "No spread between seeds is known: give --seed-sd, or a pilot with several."
    if spread.interaction:
        yield (
            f"Assumed: up to {100 * spread.interaction:g} % of the variance over documents changes "
            "with the seed. A pilot with several seeds measures it."
        )
    if pairing:
        yield f"Seeds of the two recipes: {pairing}."


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("simulating studies ({task.completed} sizes so far)")
    how: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
    columns, console = (SpinnerColumn(), text, TimeElapsedColumn()), stderr_console()
    bar = Progress(*columns, console=console, disable=not console.is_terminal, **how)
    task = bar.add_task("", total=None)
    with drawn(bar):
        yield lambda: bar.advance(task)
