"""The spread that a plan assumes: a pilot's, or what the user states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from scipy.special import ndtri

from aurac.analysis.groups import defaults, gather, together
from aurac.analysis.pairing import paired_areas
from aurac.arguments import converted, fraction, path_of, several
from aurac.errors import UsageError
from aurac.readers import read_curves
from aurac.records.reader import regrouped
from aurac.stats import power as planning
from aurac.stats.design import Design
from aurac.stats.seeds import components
from aurac.stats.spread import INTERACTION, Spread, spread_of_flips, spread_of_pilot

if TYPE_CHECKING:
    from pandas import DataFrame
    from typing_extensions import Unpack

    from aurac.analysis.groups import Groups, RecipeGroup
    from aurac.curves.area import Axis
    from aurac.stats.power import Plan, Question


class PilotOptions(TypedDict, total=False):
    """Which part of a pilot a spread is learnt from; each as of `plan`."""

    between: Sequence[str] | None
    rank: int | None
    task: str | None
    metric: str | None
    groups: Groups | None
    axis: Axis | None


class SpreadOptions(PilotOptions, total=False):
    """The keywords of `find_spread`."""

    pilot: str | Path | None
    sd: float | None
    flip_rate: float | None
    seed_sd: float | None


def plan(
    margin: float,
    *,
    question: Question = "difference",
    pilot: str | Path | Any | None = None,
    flip_rate: float | None = None,
    sd: float | None = None,
    seed_sd: float | None = None,
    seeds: int | Sequence[int] = (1,),
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    paired_seeds: bool = True,
    seed: int = 0,
    between: Sequence[str] | None = None,
    rank: int | None = None,
    task: str | None = None,
    metric: str | None = None,
    groups: Groups | None = None,
    axis: Axis | None = None,
) -> DataFrame:
    """How many documents a question needs, before any compute is spent, as `aurac plan` says it.

    One of `pilot`, `flip_rate` and `sd` says how much outcomes vary.

    Args:
        margin: Difference, margin or half-width in question, a fraction.
        question: "difference" between two adapters, "non-inferiority" of a smaller rank, or
            "interval" of one adapter's AURAC.
        pilot: A run folder (or a `Run`), table or sample logs to learn the spread from: of a
            difference its mean square, which the difference itself is part of.
        flip_rate: Or: the share of documents whose outcome changes.
        sd: Or: the standard deviation over documents of the paired difference.
        seed_sd: Over training seeds of one recipe's AURAC, in the place of the pilot's; without
            either 0, with which several seeds need more documents than is said.
        seeds: Training seeds of each recipe to plan for, one number or several.
        alpha: Error rate, two-sided but for non-inferiority.
        power: Chance of the answer where the truth is as assumed; for an interval, that it is at
            most this wide. What the answer reaches in simulation is at most 0.02 below it.
        comparisons: Tests that share alpha; Holm's first step, so the answer is on the safe side.
        paired_seeds: Whether a difference is tested within each seed (same seeds, data and order in
            both recipes), or between two independent arms.
        seed: Of the simulation.
        between: Of a pilot: two adapters, or one for a question of one; None: the first.
        rank: Of a pilot, for non-inferiority: the rank in mind; None: the one below the largest.
        task: Of a pilot: one task; None: the first.
        metric: Of a pilot that holds several.
        groups: Of a pilot: name → adapters that are seeds of one recipe.
        axis: Of a pilot: the axis of AURAC, "log2" by default.

    Returns:
        A row for each number of seeds; columns as the fields of `aurac.stats.power.Plan`.

    Raises:
        UsageError: No spread, one that does not fit the question, or a number out of range.
        CurveError: Another question, a share or a number of seeds that cannot be, or a difference
            too large for the spread.
        DataError, RunFolderError: A pilot that cannot be read.
    """
    from aurac.curves.frames import Table

    paired_seeds = converted(paired_seeds, bool, "paired_seeds")
    if pilot is not None:
        what = "a pilot: a run folder (or its Run), table or sample logs"
        pilot = path_of(getattr(pilot, "folder", pilot), what)
    spread = find_spread(
        question,
        pilot=pilot,
        sd=converted(sd, float | None, "sd"),
        flip_rate=converted(flip_rate, float | None, "flip_rate"),
        seed_sd=converted(seed_sd, float | None, "seed_sd"),
        paired_seeds=paired_seeds,
        between=several(between) or None,
        rank=rank,
        task=task,
        metric=metric,
        groups=groups,
        axis=axis,
    )
    rows = planning.plan(
        fraction(margin, "margin"),
        spread,
        seeds=converted(seeds, Sequence[int], "seeds"),
        question=question,
        alpha=fraction(alpha, "alpha", 0.5, "0.05"),
        power=fraction(power, "power", such_as="0.8"),
        comparisons=converted(comparisons, int, "comparisons"),
        paired_seeds=paired_seeds,
        rng=np.random.default_rng(seed),
    )
    return Table([asdict(row) for row in rows])


@dataclass(frozen=True)
class EarlyPlan:
    """What a run that stops early needs, with the documents that one seed needs as its budget.

    Attributes:
        budget: Documents at most.
        power: Probability of an answer.
        documents: Mean number where the truth is as assumed.
        none: The same without a difference; for non-inferiority with a loss of the margin.
        twice: The same at twice the difference; None for non-inferiority.
    """

    budget: int
    power: float
    documents: float
    none: float
    twice: float | None


def plan_early(
    rows: Sequence[Plan], question: Question, alpha: float, power: float, comparisons: int
) -> EarlyPlan | None:
    """What stopping early needs; None for an interval, or where no plan is of one seed."""
    total = next((row.documents for row in rows if row.seeds == 1), None)
    if question == "interval" or total is None:
        return None
    margin = question == "non-inferiority"
    design = Design(alpha=alpha, margin=0.5 if margin else None, one_sided=margin)
    drift = float(ndtri(power) - ndtri(design.error / design.sides / comparisons))
    shown, share = design.expected(drift, comparisons)
    none, twice = (total * design.expected(x, comparisons)[1] for x in (0.0, 2 * drift))
    return EarlyPlan(total, shown, share * total, none, None if margin else twice)


def find_spread(
    question: Question,
    *,
    pilot: str | Path | None = None,
    sd: float | None = None,
    flip_rate: float | None = None,
    seed_sd: float | None = None,
    paired_seeds: bool = True,
    **which: Unpack[PilotOptions],
) -> Spread:
    """The spread of a pilot, or the one that is assumed; arguments as of `plan`.

    Raises:
        UsageError: No spread, or one that does not fit the question.
    """
    if seed_sd is not None and not 0 <= seed_sd <= 1:
        raise UsageError(f"--seed-sd {seed_sd:g}", expected="a number in [0, 1]")
    if pilot is not None:
        for name, value in (("--sd", sd), ("--flip-rate", flip_rate)):
            if value is not None:
                raise UsageError(f"{name} with a pilot", expected="one of both")
        spread = _piloted(pilot, question, paired_seeds=paired_seeds, **which)
    elif given := [name for name, value in which.items() if value is not None]:
        raise UsageError(f"{', '.join(given)} without a pilot", fix="give --pilot PATH")
    else:
        spread = _assumed(sd, flip_rate, question)
    if seed_sd is None:
        return spread
    upper = None if spread.upper is None else replace(spread.upper, seed=seed_sd**2)
    return replace(spread, seed=seed_sd**2, upper=upper)


def _assumed(sd: float | None, flip_rate: float | None, question: Question) -> Spread:
    if (sd is None) == (flip_rate is None):
        given = "no spread" if sd is None else "--sd with --flip-rate"
        raise UsageError(given, expected="one of --pilot, --sd and --flip-rate")
    groups = 2 if question == "difference" else 1
    if sd is not None:
        if not 0 < sd <= 1:
            raise UsageError(f"--sd {sd:g}", expected="a number in (0, 1]")
        words = f"sd {sd:g} over documents, assumed"
        return Spread(sd**2, groups=groups, source=words, interaction=INTERACTION)
    if question == "interval":
        raise UsageError("--flip-rate for an interval of one adapter", expected="--sd or --pilot")
    return replace(spread_of_flips(flip_rate or 0.0), groups=groups)


def _piloted(
    pilot: str | Path,
    question: Question,
    *,
    paired_seeds: bool,
    **which: Unpack[PilotOptions],
) -> Spread:
    axis, adapters = which.get("axis") or "log2", _of_pilot(pilot, which)
    if question == "difference":
        if (between := which.get("between")) and len(between) != 2:
            raise UsageError(f"--between {','.join(between)!r}", expected="two adapters, A,B")
        if len(adapters) < 2:
            raise UsageError("the pilot has one adapter", expected="two to compare")
        first, second = together(adapters[:2], axis=axis)
        rows = paired_areas(first, second, axis, paired_seeds=None if paired_seeds else False)
        changes, parts = rows.b[0] - rows.a[0], rows.difference(0.95).parts
    else:
        first = adapters[0]
        scores = [
            first.areas(axis) if question == "interval" else _losses(first, which.get("rank"))
        ]
        changes = scores[0][0]
        parts = components(scores, [1], first.layout)
    alone = question == "interval" or first.layout.clusters is not None
    found = spread_of_pilot(parts, first.layout.n, changes=None if alone else changes)
    names = [group.name for group in adapters[: 2 if question == "difference" else 1]]
    return replace(found, source=f"{found.source}: {' and '.join(names)}")


def _of_pilot(pilot: str | Path, which: PilotOptions) -> list[RecipeGroup]:
    """The adapters of a pilot on one task (or some of them), each in its default truncation."""
    task, between = which.get("task"), which.get("between")
    source = read_curves(Path(pilot).expanduser(), which.get("metric"))
    groups = regrouped(source.groups, which.get("groups") or {})
    every, _ = defaults(gather(source.curves, groups))
    wanted = every[0].task if task is None else task
    result = {group.name: group for group in every if group.task == wanted}
    if not result:
        known = ", ".join(dict.fromkeys(str(group.task) for group in every))
        raise UsageError(f"the pilot has no task {task!r}", expected=f"one of {known}")
    if not all(group.has_documents for group in result.values()):
        raise UsageError("the pilot has no per-document outcomes", fix="give --sd or --flip-rate")
    for name in between or ():
        if name not in result:
            raise UsageError(f"--between {name!r}", expected=f"some of {', '.join(result)}")
    return [result[name] for name in between or result]


def _losses(group: RecipeGroup, rank: int | None) -> np.ndarray:
    """(S, n) losses of one rank against the largest."""
    top = max(group.ranks)
    below = [r for r in group.ranks if r < top]
    wanted = rank if rank is not None else max(below, default=0)
    if wanted not in below:
        raise UsageError(f"--rank {wanted}", expected=f"one of {below} below {top}")
    return group.scores(top) - group.scores(wanted)
