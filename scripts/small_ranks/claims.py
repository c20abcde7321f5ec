"""Every number that the page gives with an interval, and the words that an interval allows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.stats.estimate import FRACTION, SIGNED, components, estimate, over_tasks
from aurac.stats.planning import Assumptions
from scripts.small_ranks.base import BOTH, FRESH, GRADES, OLD, WORDS, Stored, Way

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from aurac.curves.area import Axis
    from aurac.stats.estimate import Array

RANKS, TRAINED = (1, 2, 4, 8), 16
DRAWS = 2000  # of the bootstrap
LORA, NESTED = Way("lora", "svd", "keep"), Way("matryoshka", "svd", "keep")
FITTED, NESTED_FITTED = Way("lora", "svd", "fit"), Way("matryoshka", "svd", "fit")
PREFIX, PREFIX_FITTED = Way("lora", "prefix", "rule"), Way("lora", "prefix", "fit")
WITH_P = Way("matryoshka_prefix", "prefix", "trained")
WITHOUT_P = Way("matryoshka_prefix", "prefix", "rule")
NESTED_PREFIX_FITTED = Way("matryoshka", "prefix", "fit")
TWO, TWO_FITTED = Way("dylora", "prefix", "rule"), Way("dylora", "prefix", "fit")
EIGHT, EIGHT_FITTED = Way("dylora_eight", "prefix", "rule"), Way("dylora_eight", "prefix", "fit")
EACH, SEARCHED = Way("lora_per_rank", "prefix", "rule"), Way("lora_rank", "svd", "keep")
SCALED, SQUEEZE = Way("lora_scale", "svd", "fit"), Way("squeeze", "prefix", "rule")
AT_FIRST = ((NESTED_FITTED, FITTED), (NESTED, LORA), (NESTED_FITTED, TWO))  # declared, of six
EXPLORED = (
    *((WITH_P, EIGHT), (WITHOUT_P, EIGHT), (NESTED_PREFIX_FITTED, EIGHT_FITTED)),
    *((WITH_P, TWO), (WITHOUT_P, TWO), (NESTED_PREFIX_FITTED, TWO), (WITHOUT_P, WITH_P)),
    *((PREFIX_FITTED, PREFIX), (NESTED_PREFIX_FITTED, WITH_P)),
    *((NESTED_PREFIX_FITTED, PREFIX_FITTED), (FITTED, TWO), (LORA, EIGHT), (NESTED, EIGHT)),
    *((EACH, LORA), (EACH, NESTED), (EACH, FITTED), (EACH, NESTED_FITTED)),
    *((NESTED_FITTED, SCALED), (SCALED, FITTED), (EIGHT, TWO)),
    *((SQUEEZE, LORA), (SQUEEZE, NESTED)),
)
AT_RANKS = (
    *((NESTED, LORA), (NESTED_FITTED, FITTED), (EACH, LORA), (EACH, NESTED)),
    *((EACH, FITTED), (EACH, NESTED_FITTED), (SEARCHED, LORA), (SEARCHED, FITTED)),
    *((SEARCHED, NESTED), (WITH_P, EIGHT), (WITH_P, TWO)),
)
Kind = Literal["test", "old seeds", "estimate", "first", "explored", "rank", "loss"]


class Asked(NamedTuple):
    """A difference that is asked for: two ways, each over ranks, on tasks."""

    kind: Kind
    a: Way
    b: Way
    tasks: tuple[str, ...] = BOTH
    ranks: tuple[int, ...] = RANKS
    axis: Axis = "log2"


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


def areas(
    stored: Stored, task: str, way: Way, ranks: tuple[int, ...], axis: Axis, grade: str
) -> dict[int, Array]:
    """Seed → (n,) AURAC, or accuracy at a single rank, of each example."""
    weights = quadrature_weights(ranks, axis) if len(ranks) > 1 else np.ones(1)
    row, known = GRADES.index(grade), stored.scores.get((task, way), {})
    return {
        seed: np.clip(weights @ [scores[rank][row] for rank in ranks], 0, 1)
        for seed, scores in known.items()
        if {*ranks} <= scores.keys()
    }


def claim(
    stored: Stored,
    sides: Collection[tuple[Way, tuple[int, ...]]],
    tasks: tuple[str, ...],
    axis: Axis = "log2",
    grade: str = "value",
    seeds: Collection[int] | None = None,
    family: int = 1,
) -> Claim | None:
    """Of one way over ranks, or of the difference of two within each seed; None of what is not there."""
    found = {task: [areas(stored, task, *s, axis, grade) for s in sides] for task in tasks}
    both = sorted(set.intersection(*(set(side) for some in found.values() for side in some)))
    if seeds is not None:
        both = [seed for seed in both if seed in seeds]
    if len(both) < 2:
        return None
    each = {}
    for task, (first, *second) in found.items():
        values = np.stack([first[seed] for seed in both])
        each[task] = values - np.stack([second[0][seed] for seed in both]) if second else values
    parts = [components(x, names=[(t, seed) for seed in both]) for t, x in each.items()]
    whole = over_tasks(parts) if len(parts) > 1 else parts[0]
    if whole is None:
        return None
    bounds = SIGNED if len(sides) > 1 else FRACTION
    known = estimate(whole, bounds, tests=family)
    drawn = bootstrap([(x, stored.units[task]) for task, x in each.items()], family)
    of_seeds = np.mean([x.mean(axis=1) for x in each.values()], axis=0)
    return Claim(*known, tuple(both), tuple(of_seeds), drawn)


def bootstrap(each: list[tuple[Array, Array]], family: int) -> tuple[float, float]:
    """Both ends of the percentile interval of the mean over tasks: templates and seeds drawn anew."""
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


def declared_seeds(stored: Stored) -> list[int]:
    """The fresh seeds of which both methods are whole on both tasks."""
    sets = [
        set(areas(stored, task, way, RANKS, "log2", "value"))
        for task in BOTH
        for way in (LORA, NESTED)
    ]
    return [seed for seed in FRESH if all(seed in known for known in sets)]


def asked() -> Iterator[tuple[Asked, int]]:
    """Every difference, and for how many its interval holds together."""
    for kind in ("test", "old seeds", "estimate"):
        for tasks in (BOTH, *((task,) for task in BOTH)):
            yield Asked(kind, NESTED, LORA, tasks), 1
    for tasks in (BOTH, *((task,) for task in BOTH)):
        for a, b in AT_FIRST:
            yield Asked("first", a, b, tasks), 2 * len(AT_FIRST)
        for a, b in EXPLORED:
            yield Asked("explored", a, b, tasks), len(EXPLORED)
            yield Asked("explored", a, b, tasks, (*RANKS, TRAINED)), len(EXPLORED)
            yield Asked("explored", a, b, tasks, (*RANKS, TRAINED), "linear"), len(EXPLORED)
        for rank in RANKS:
            for a, b in AT_RANKS:
                yield Asked("rank", a, b, tasks, (rank,)), len(RANKS)
            for way in (LORA, NESTED):
                yield Asked("loss", way, way, tasks, (rank,)), len(RANKS)


def answers(stored: Stored, grade: str = "value") -> dict[Asked, Claim]:
    """What is there of all that is asked; nothing of fresh seeds before all are whole."""
    whole = len(declared_seeds(stored)) == len(FRESH)
    found = {}
    for each, family in asked():
        if each.kind == "test" and not whole:
            continue
        seeds = {"test": FRESH, "old seeds": OLD}.get(each.kind, None if whole else OLD)
        other = (TRAINED,) if each.kind == "loss" else each.ranks
        sides, told = [(each.a, each.ranks), (each.b, other)], (each.axis, grade, seeds, family)
        if known := claim(stored, sides, each.tasks, *told):
            found[each] = known
    return found


def verdict(found: Claim | None) -> str:
    """What an interval of a difference shows of the first way."""
    if found is None:
        return "not there yet"
    return "better" if found.low > 0 else "worse" if found.high < 0 else "not shown"


def power(stored: Stored) -> float:
    """The difference that the test finds four times in five, by the old seeds' spread.

    The closed form of `aurac plan`: its examples are as many as both tasks have, and vary as the
    mean over the tasks does.
    """
    each = [
        np.stack([ours[seed] - theirs[seed] for seed in OLD])
        for task in BOTH
        for ours, theirs in [[areas(stored, task, w, RANKS, "log2", "value") for w in (NESTED, LORA)]]
    ]
    examples = sum(x.shape[1] for x in each)
    flips = examples * sum(x.mean(axis=0).var() / x.shape[1] for x in each) / len(each) ** 2
    spread = np.sqrt(sum(x.mean(axis=1).var(ddof=1) for x in each) / len(each) ** 2 / 2)
    assumed = Assumptions(flips=float(flips), seeds=len(FRESH), seed_sd=float(spread))
    steps = np.arange(0.001, 0.2, 0.001)
    return float(next(step for step in steps if assumed.surplus(step, examples) >= 0))
