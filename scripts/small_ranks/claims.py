"""Every number that the page gives with an interval, and the word that an interval allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.stats.estimate import FRACTION, SIGNED, components, estimate, over_tasks
from scripts.small_ranks.outcomes import ASKED, GRADES, TASKS, WAYS, Outcomes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aurac.stats.estimate import Array, Estimate

OLD, FRESH = range(47, 55), range(55, 63)
SEEDS = {"old": OLD, "fresh": FRESH, "all": (*OLD, *FRESH)}
RANKS, TRAINED = ("1", "2", "4", "8"), "16"
SCOPES = {"both": tuple(TASKS), **{title: (task,) for task, title in TASKS.items()}}
Side = tuple[str, str]  # the name of a way, and ranks as `axes` of asked.yaml names them


class Asked(NamedTuple):
    """A difference that is asked for, in the names of asked.yaml and `SCOPES`."""

    kind: str
    a: str
    b: str
    tasks: str
    ranks: str


class Claim(NamedTuple):
    """A mean over seeds, examples and tasks.

    Attributes:
        found: The mean, its 95 % interval and p, adjusted for the family.
        by_template: The same where questions of one template are one unit.
        seeds: Those that both ways have on every task.
        each: The mean of each seed.
    """

    found: Estimate
    by_template: Estimate
    seeds: tuple[int, ...]
    each: tuple[float, ...]

    @property
    def word(self) -> str:
        """What the interval of a difference shows of the first way."""
        return "better" if self.found.low > 0 else "worse" if self.found.high < 0 else "neither"

    @property
    def named_seeds(self) -> str:
        """The seeds as "47–54"; they follow each other."""
        return f"{self.seeds[0]}–{self.seeds[-1]}"


def areas(of: Outcomes, task: str, side: Side, grade: str) -> dict[int, Array]:
    """Seed → (n,) AURAC of each example, or its score at a single rank."""
    way, (ranks, axis) = side[0], ASKED["axes"][side[1]]
    weights = quadrature_weights(ranks, axis) if len(ranks) > 1 else np.ones(1)
    row, known = GRADES.index(grade), of.scores.get((task, way), {})
    return {
        seed: np.clip(weights @ [scores[rank][row] for rank in ranks], 0, 1)
        for seed, scores in known.items()
        if {*ranks} <= scores.keys()
    }


def claim(
    of: Outcomes,
    sides: Sequence[Side],
    tasks: str,
    seeds: Collection[int],
    grade: str = "value",
    family: int = 1,
) -> Claim | None:
    """Of one way, or the difference of two within each seed; None where no two seeds have both."""
    found = {task: [areas(of, task, side, grade) for side in sides] for task in SCOPES[tasks]}
    known = set.intersection(*(set(side) for some in found.values() for side in some))
    if len(both := sorted(known & {*seeds})) < 2:
        return None
    each = {}
    for task, some in found.items():
        first, *second = (np.stack([side[seed] for seed in both]) for side in some)
        each[task] = first - second[0] if second else first

    def over(units: dict[str, Any]) -> Estimate:
        parts = [
            components(x, units.get(task), [(task, seed) for seed in both])
            for task, x in each.items()
        ]
        whole = over_tasks(parts) or parts[0]
        return estimate(whole, SIGNED if len(sides) > 1 else FRACTION, tests=family)

    of_seeds = np.mean([x.mean(axis=1) for x in each.values()], axis=0)
    return Claim(over({}), over(of.templates), tuple(both), tuple(of_seeds))


def differences(of: Outcomes, grade: str = "value") -> dict[Asked, Claim]:
    """Every difference that is asked for; a loss is that of a rank against the trained one."""
    found = {}
    for tasks in SCOPES:
        for kind, about in ASKED["kinds"].items():
            for ranks in about["ranks"]:
                for a, b in about["pairs"]:
                    sides = [(a, TRAINED if kind == "loss" else ranks), (b, ranks)]
                    seeds = SEEDS[about["seeds"]]
                    if known := claim(of, sides, tasks, seeds, grade, about["family"]):
                        found[Asked(kind, a, b, tasks, ranks)] = known
    return found


def accuracies(of: Outcomes) -> dict[tuple[str, str, str, str], Claim]:
    """Scope, way, ranks and seeds → accuracy or AURAC: of the old seeds, and of all."""
    found = {}
    for tasks in SCOPES:
        for way in WAYS:
            for ranks in (*RANKS, TRAINED, "1 to 8"):
                for seeds in ("old", "all"):
                    if known := claim(of, [(way, ranks)], tasks, SEEDS[seeds]):
                        found[tasks, way, ranks, known.named_seeds] = known
    return found
