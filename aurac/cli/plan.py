"""`aurac plan`: how many documents and seeds a question needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import numpy as np

from aurac.cli.options import (
    as_table,
    command,
    numbers,
    options,
    parsed,
    print_result,
    refuse_given,
)
from aurac.curves.display import declared
from aurac.stats.seeds import INDEPENDENT, PAIRED
from aurac.terminal import stderr_console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Unpack

    from aurac.analysis.pilot import EarlyPlan, SpreadOptions
    from aurac.runs.pace import Pace
    from aurac.stats.power import Plan, Question
    from aurac.stats.spread import Spread

QUESTIONS = {
    "difference": "to find a difference of {margin} between two adapters",
    "non-inferiority": "to show that a rank which loses nothing loses less than {margin}",
    "interval": "for an interval of ± {margin} around one adapter's AURAC",
}


@command(short="margin question pilot sd flip-rate seeds power json")
@options(
    """
    --margin FLOAT: Difference, margin or half-width in question, a fraction such as 0.02.
    --question [difference]: Of two adapters, of a smaller rank, or of one adapter.
    --pilot PATH: A table, sample logs or a run folder to learn the spread from.
    --between: ADAPTER,ADAPTER of the pilot, or ADAPTER for a question of one; by default the first.
    --rank INTEGER: For non-inferiority: the rank in mind; the one below the largest by default.
    --task: Task of the pilot and of --pace; their first by default.
    --pace PATH: A finished run that says how long a document takes. Default: the pilot.
    --metric: NAME,FILTER where the pilot holds several metrics.
    --group
    --axis
    --sd FLOAT: Without a pilot: sd over documents of the paired difference.
    --flip-rate FLOAT: Or the share of documents whose outcome changes.
    --seed-sd FLOAT: Sd over training seeds of one recipe's AURAC (for non-inferiority: of the
        loss); 0, or the pilot's, by default.
    --seeds [1,3,5]: Training seeds of each recipe to plan for.
    --paired-seeds/--independent-seeds: Of a difference: whether both recipes have the same seeds,
        data and order, so that it is tested within each seed.
    --alpha FLOAT [0.05]: Error rate.
    --power FLOAT [0.8]: Chance of the answer.
    --comparisons INTEGER [1]: Tests that share alpha.
    --seed INTEGER>=0 [0]: Of the simulation.
    --json
    """,
    margin={"required": True},
    question={"type": click.Choice([*QUESTIONS])},
    between=parsed(lambda text: [name.strip() for name in text.split(",") if name]),
    metric={},
    seeds=parsed(numbers("--seeds", "1,3,5")),
    paired_seeds={"default": True},
)
def plan(
    *,
    margin: float,
    question: Question,
    seeds: tuple[int, ...],
    seed: int,
    pace: Path | None,
    paired_seeds: bool,
    alpha: float,
    power: float,
    comparisons: int,
    as_json: bool,
    **spread_options: Unpack[SpreadOptions],
) -> None:
    """How many documents and seeds a question needs, before any compute is spent.

    Studies of that size are simulated with the tests that answer the question. With a pilot the
    answer is a range: for the spread that was seen, and for its upper 95 % confidence limits.

    \b
    aurac plan --margin 0.02 --flip-rate 0.15
    aurac plan --margin 0.02 --pilot runs/pilot --between lora,matryoshka
    aurac plan --margin 0.02 --flip-rate 0.15 --pace runs/pilot
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.pilot import find_spread, plan_early
    from aurac.runs.pace import find_pace
    from aurac.stats.power import plan as plan_documents

    timed = find_pace(pace, spread_options["pilot"], spread_options["task"])
    known = _assumed(pace, question, spread_options)
    spread = find_spread(question, paired_seeds=paired_seeds, **known)
    with stderr_console().status("simulating studies"):
        rows = plan_documents(
            margin,
            spread,
            seeds=seeds,
            question=question,
            alpha=alpha,
            power=power,
            comparisons=comparisons,
            paired_seeds=paired_seeds,
            rng=np.random.default_rng(seed),
        )
    early = plan_early(rows, question, alpha, power, comparisons)
    several = question == "difference" and any(row.seeds > 1 for row in rows)
    pairing = (PAIRED if paired_seeds else INDEPENDENT) if several else None
    content = {
        "margin": margin,
        "question": question,
        "alpha": alpha,
        "power": power,
        "comparisons": comparisons,
        "spread": asdict(spread),
        "pairing": pairing,
        "plans": [asdict(row) | {"seconds": _seconds(row, question, timed)} for row in rows],
        "pace": asdict(timed) if timed else None,
        "early": asdict(early) if early else None,
    }
    what = QUESTIONS[question].format(margin=declared(margin))
    asked = f"alpha {alpha:g}, power {power:g}; {spread.source}"
    lines = [f"Documents needed {what} ({asked}):", *_lines(rows, spread, question, timed)]
    lines += [*_seed_lines(rows, spread, pairing), _paced(timed, question)]
    lines += [_early_text(early, question, timed)] if early else []
    print_result(content, "\n".join(lines), as_json=as_json)


def _assumed(pace: Path | None, question: str, options: SpreadOptions) -> SpreadOptions:
    """What `find_spread` is told: of a pilot, or what is assumed without one."""
    if question != "non-inferiority":
        refuse_given(["rank"], f"for the question {question}", "give --question non-inferiority")
    if options["pilot"] is None:
        of_pilots = ["between", "rank", "metric", "groups", "axis"]
        of_pilots += ["task"] if pace is None else []
        refuse_given(of_pilots, "without a pilot", "give --pilot, too")
        sd, flip_rate, seed_sd = options["sd"], options["flip_rate"], options["seed_sd"]
        return {"sd": sd, "flip_rate": flip_rate, "seed_sd": seed_sd}
    return options


def _early_text(early: EarlyPlan, question: str, pace: Pace | None) -> str:
    from aurac.runs.log import duration

    def amount(documents: float) -> str:
        time = f" ({duration(pace.of(documents, question))})" if pace else ""
        return f"{documents:,.0f}{time}"

    command, other, twice = "recommend", "with a loss of the margin", ""
    if early.twice is not None:
        command, other = "compare", "without a difference"
        twice = f", {amount(early.twice)} at twice the difference"
    return (
        f"One seed with `aurac {command} --until decided --budget {early.budget}`: "
        f"{amount(early.documents)} of the {amount(early.budget)} documents on average (power "
        f"{early.power:.2f}){twice}, {amount(early.none)} {other}."
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
    from aurac.runs.log import duration

    columns = {
        "seeds of each recipe": [str(row.seeds) for row in rows],
        "documents": [_documents(row.documents) for row in rows],
        "simulated power": [
            "–" if row.power is None else f"{row.power:.2f} ± {row.power_se or 0.0:.2f}"
            for row in rows
        ],
    }
    if pace:
        times = [_seconds(row, question, pace) for row in rows]
        columns["time"] = ["–" if time is None else duration(time) for time in times]
    if spread.upper is not None:
        columns["at the pilot's upper limits"] = [_documents(row.most) for row in rows]
    lines = [as_table([*columns], zip(*columns.values(), strict=True))]
    named = [(f"With {row.seeds} seed{'s' if row.seeds > 1 else ''}", row) for row in rows]
    lines += [f"{seeds}: {row.reason}." for seeds, row in named if row.reason]
    lines += [
        f"{seeds}, at the pilot's upper limits: {row.most_reason}."
        for seeds, row in named
        if row.most_reason and not row.reason
    ]
    if spread.upper is not None:
        lines.append(
            "A pilot is a sample too; the last column is for its upper 95 % confidence limits."
        )
    if any(row.seeds == 1 for row in rows):
        lines.append("With one seed the answer is conditional on those checkpoints.")
    return lines


def _documents(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"


def _seed_lines(rows: Sequence[Plan], spread: Spread, pairing: str | None) -> Iterator[str]:
    """What is assumed of several seeds."""
    if all(row.seeds == 1 for row in rows):
        return
    if spread.seed == 0.0:
        known = "The pilot's seeds show no spread of their own: give --seed-sd to assume one."
        unknown = "No spread between seeds is known: give --seed-sd, or a pilot with several."
        yield unknown if spread.interaction else known
    if spread.interaction:
        yield (
            f"Assumed: up to {100 * spread.interaction:g} % of the variance over documents changes "
            "with the seed. A pilot with several seeds measures it."
        )
    if pairing:
        yield f"Seeds of the two recipes: {pairing}."
