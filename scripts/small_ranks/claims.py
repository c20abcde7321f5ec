"""Every number that the page gives with an interval, and the word that an interval allows."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.stats.estimate import FRACTION, SIGNED, components, estimate, over_tasks
from aurac.stats.planning import Assumptions
from scripts.small_ranks.base import ASKED, FRESH, GRADES, OLD, TASKS, WAYS, Stored, Way

if TYPE_CHECKING:
    from collections.abc import Collection

    from aurac.stats.estimate import Array

EACH, TRAINED = ("1", "2", "4", "8"), "16"
DRAWS = 2000  # of the bootstrap
DECLARED = ("nested", "lora")
SCOPES = {"both": tuple(TASKS), **{title: (task,) for task, title in TASKS.items()}}


class Asked(NamedTuple):
    """A difference that is asked for, in the names of asked.yaml and `SCOPES`."""

    kind: str
    a: str
    b: str
    tasks: str = "both"
    ranks: str = "1 to 8"


class Claim(NamedTuple):
    """A mean over seeds, examples and tasks with its 95 % interval.

    Attributes:
        value, low, high, p: Fractions, adjusted for the family.
        seeds: That both ways have on every task.
        each: The same of each seed.
        drawn: The interval of the bootstrap over templates and seeds.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...]
    each: tuple[float, ...]
    drawn: tuple[float, float]


def areas(stored: Stored, task: str, way: Way, over: str, grade: str = "value") -> dict[int, Array]:
    """Seed → (n,) AURAC, or accuracy at a single rank, of each example."""
    ranks, axis = ASKED["axes"][over]
    weights = quadrature_weights(ranks, axis) if len(ranks) > 1 else np.ones(1)
    row, known = GRADES.index(grade), stored.scores.get((task, way), {})
    return {
        seed: np.clip(weights @ [scores[rank][row] for rank in ranks], 0, 1)
        for seed, scores in known.items()
        if {*ranks} <= scores.keys()
    }


def claim(
    stored: Stored,
    sides: Collection[tuple[Way, str]],
    tasks: str,
    grade: str = "value",
    seeds: Collection[int] = OLD,
    family: int = 1,
) -> Claim | None:
    """Of one way over ranks, or the difference of two within each seed; None if it is not there."""
    found = {task: [areas(stored, task, *side, grade) for side in sides] for task in SCOPES[tasks]}
    known = set.intersection(*(set(side) for some in found.values() for side in some))
    if len(both := sorted(known & {*seeds})) < 2:
        return None
    each = {}
    for task, some in found.items():
        first, *second = (np.stack([side[seed] for seed in both]) for side in some)
        each[task] = first - second[0] if second else first
    parts = [components(x, names=[(t, seed) for seed in both]) for t, x in each.items()]
    whole = (over_tasks(parts) if len(parts) > 1 else None) or parts[0]
    ends = estimate(whole, SIGNED if len(sides) > 1 else FRACTION, tests=family)
    drawn = bootstrap([(x, stored.units[task]) for task, x in each.items()], family)
    of_seeds = np.mean([x.mean(axis=1) for x in each.values()], axis=0)
    return Claim(*ends, tuple(both), tuple(of_seeds), drawn)


def bootstrap(each: list[tuple[Array, Array]], family: int) -> tuple[float, float]:
    """Both ends of the bootstrap's percentile interval: templates and seeds are drawn anew."""
    means = []
    for at, (values, units) in enumerate(each):
        sizes = np.bincount(units)
        sums = np.stack([np.bincount(units, row) for row in values])
        seeds, templates = _draws(len(sums), at), _draws(len(sizes), len(each) + at)
        totals = np.einsum("bs,sg,bg->b", seeds, sums, templates, optimize=True)
        means.append(totals / (templates @ sizes) / len(sums))
    low, high = np.quantile(np.mean(means, axis=0), [0.025 / family, 1 - 0.025 / family])
    return float(low), float(high)


@cache
def _draws(count: int, stream: int) -> Array:
    """(DRAWS, count) how often each of `count` was drawn."""
    drawn = np.random.default_rng([68, stream, count]).integers(count, size=(DRAWS, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def fresh_sets(stored: Stored) -> list[set[int]]:
    """The fresh seeds that are evaluated, of each of both methods on each task."""
    sets = [set(areas(stored, task, WAYS[way], "1 to 8")) for task in TASKS for way in DECLARED]
    return [some & {*FRESH} for some in sets]


def fresh_seeds(stored: Stored) -> list[int]:
    """The fresh seeds of which both methods are whole on both tasks."""
    return sorted(set.intersection(*fresh_sets(stored)))


def known_seeds(stored: Stored) -> Collection[int]:
    """The seeds of an estimate: nothing is concluded from fresh ones before all are whole."""
    return [*OLD, *FRESH] if len(fresh_seeds(stored)) == len(FRESH) else OLD


def asked() -> dict[Asked, int]:
    """Every difference, and for how many its interval holds together."""
    return {
        Asked(kind, a, b, tasks, over): about["family"]
        for tasks in SCOPES
        for kind, about in ASKED["kinds"].items()
        for over in about["ranks"]
        for a, b in about["pairs"]
    }


def answers(stored: Stored, grade: str = "value") -> dict[Asked, Claim]:
    """What is there of all that is asked; a loss is that of a rank against the trained one."""
    known = known_seeds(stored)
    of_kind = {"test": FRESH if FRESH[0] in known else (), "old seeds": OLD, "first": OLD}
    found = {}
    for each, family in asked().items():
        whole = TRAINED if each.kind == "loss" else each.ranks
        sides = [(WAYS[each.a], whole), (WAYS[each.b], each.ranks)]
        seeds = of_kind.get(each.kind, known)
        if here := claim(stored, sides, each.tasks, grade, seeds, family):
            found[each] = here
    return found


def accuracies(stored: Stored) -> dict[tuple[str, Way, str], Claim]:
    """Scope, way and ranks → accuracy at a rank or AURAC, of all that was evaluated."""
    seeds, ways = known_seeds(stored), dict.fromkeys(way for _, way in stored.scores)
    every = product(SCOPES, ways, (*EACH, TRAINED, "1 to 8"))
    found = {each: claim(stored, [each[1:]], each[0], seeds=seeds) for each in every}
    return {each: known for each, known in found.items() if known}


def verdict(found: Claim | None) -> str:
    """What an interval of a difference shows of the first way."""
    if found is None:
        return "not there yet"
    return "better" if found.low > 0 else "worse" if found.high < 0 else "not shown"


def power(stored: Stored, grade: str = "value") -> float:
    """The difference that the test finds four times in five, by the old seeds' spread.

    The closed form of `aurac plan`: its examples are as many as both tasks have, and vary as the
    mean over the tasks does.
    """
    sides = [
        [areas(stored, task, WAYS[way], "1 to 8", grade) for way in DECLARED] for task in TASKS
    ]
    each = [np.stack([ours[seed] - theirs[seed] for seed in OLD]) for ours, theirs in sides]
    examples = sum(x.shape[1] for x in each)
    flips = examples * sum(x.mean(axis=0).var() / x.shape[1] for x in each) / len(each) ** 2
    spread = np.sqrt(sum(x.mean(axis=1).var(ddof=1) for x in each) / len(each) ** 2 / 2)
    assumed = Assumptions(flips=float(flips), seeds=len(FRESH), seed_sd=float(spread))
    steps = np.arange(0.001, 0.2, 0.001)
    return float(next(step for step in steps if assumed.surplus(step, examples) >= 0))
