"""The search of a study: settings and cut of each recipe, chosen on validation examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from aurac.curves.area import quadrature_weights
from aurac.errors import RecipeError
from aurac.study.design import (
    Cut,
    Part,
    Planned,
    Search,
    adapter_of,
    groups_of,
    planned,
    tasks_of,
)
from aurac.study.work import SEARCH, Work

if TYPE_CHECKING:
    from aurac.curves.curve import Curve

Point = Mapping[str, float]
"""A setting of each searched field."""
Scores = Mapping[Cut, float]
"""What a trial scored under each cut; empty where its training diverged."""


@dataclass(frozen=True)
class Winner:
    """What a search chose for a recipe.

    Attributes:
        cut: The best one over all tasks, each at its best setting.
        points: Task → the best setting under that cut.
        trials: Task → what was tried, and how it scored.
    """

    cut: Cut
    points: Mapping[str, Point]
    trials: Mapping[str, Sequence[tuple[Point, Scores]]]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cut": list(self.cut),
            "tasks": {
                task: {
                    "chosen": dict(self.points[task]),
                    "trials": [
                        {**point, "scores": {" ".join(cut): s for cut, s in scores.items()}}
                        for point, scores in trials
                    ],
                }
                for task, trials in self.trials.items()
            },
        }


@dataclass
class _Grid:
    """The settings of a recipe on a task, which grow while the best one is at an end."""

    values: dict[str, list[float]]
    scores: dict[tuple[float, ...], Scores] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        names = list(self.values)
        return [dict(zip(names, v, strict=True)) for v in itertools.product(*self.values.values())]

    def known(self, point: Point) -> Scores:
        return self.scores[tuple(point.values())]

    def score(self, cut: Cut, point: Point) -> float:
        """Of a trial; below all others where it has none."""
        return self.known(point).get(cut, -1.0)

    def best(self, cut: Cut) -> Point:
        """The setting with the highest score under a cut; of equal ones the first."""
        return max(self.points, key=lambda point: self.score(cut, point))

    def widen(self, cut: Cut) -> bool:
        """One step further at each end that is better than its neighbour; whether there was one."""
        best, before = self.best(cut), {name: [*values] for name, values in self.values.items()}
        for name, known in before.items():
            for end, next_to in ((known[0], known[1:2]), (known[-1], known[-2:-1])):
                if next_to and best[name] == end:
                    inner = {**best, name: next_to[0]}
                    if self.score(cut, best) > self.score(cut, inner):
                        self.values[name] = sorted({*known, end * end / next_to[0]})
        return self.values != before


def choose(
    grids: Mapping[str, Mapping[str, Sequence[float]]],
    measure: Callable[[str, Point], Scores | None],
) -> Winner | None:
    """The best setting of a recipe, with one step more wherever the best one is at an end.

    Args:
        grids: Task → field → values to try, ascending.
        measure: What a task's trial of a setting scores under each cut; None: it is missing.

    Returns:
        What was chosen; None where a trial is missing or nothing has a score.
    """
    left = {task: _Grid({n: list(v) for n, v in grid.items()}) for task, grid in grids.items()}
    while True:
        found = [
            (grid, point, measure(task, point))
            for task, grid in left.items()
            for point in grid.points
            if tuple(point.values()) not in grid.scores
        ]
        for grid, point, scores in found:
            if scores is None:
                return None
            grid.scores[tuple(point.values())] = scores
        cuts = dict.fromkeys(c for grid in left.values() for s in grid.scores.values() for c in s)
        if not cuts:
            return None
        means = {c: sum(g.score(c, g.best(c)) for g in left.values()) for c in cuts}
        cut = max(means, key=lambda each: means[each])
        wider = [grid.widen(cut) for grid in left.values()]
        if not any(wider):
            points = {task: grid.best(cut) for task, grid in left.items()}
            trials = {t: [(p, grid.known(p)) for p in grid.points] for t, grid in left.items()}
            return Winner(cut, points, trials)


@dataclass
class Trials:
    """The searches of a part as they are stored, each recipe after the one that it goes on from.

    Attributes:
        work: The study.
        part: Of the study.
        winners: By recipe.
        left: The trials that are missing.
    """

    work: Work
    part: Part
    winners: dict[str, Winner] = field(default_factory=dict)
    left: list[Planned] = field(default_factory=list)

    def run(self, group: str) -> list[Planned]:
        """The adapters of a recipe, with the settings that its search found if it is whole."""
        work, search = self.work, self.work.study.search
        if search and (grids := self._grids(search, group)):
            won = choose(grids, partial(self._measure, search, group))
            self.winners |= {group: won} if won else {}
        every = planned(work.study, work.path, self.part, self.chosen)
        return [adapter for adapter in every if adapter.group == group]

    @property
    def chosen(self) -> dict[tuple[str, str], Point]:
        """Task and recipe → the settings that were found."""
        return {(t, name): x for name, won in self.winners.items() for t, x in won.points.items()}

    def _grids(self, search: Search, group: str) -> dict[str, dict[str, tuple[float, ...]]]:
        """Task → values of the fields that the recipe does not set; empty: nothing to choose."""
        study, found = self.work.study, {}
        for task in tasks_of(study, self.part):
            if group in groups_of(study, task):
                own = {*study.recipes[group], *study.tasks[task].recipes.get(group, ())}
                grid = {n: values for n, values in search.grid.items() if n not in own}
                if grid or len(self._trial(search, group, task, {}).cuts) > 1:
                    found[task] = grid
        return found

    def _trial(self, search: Search, group: str, task: str, point: Point) -> Planned:
        chosen = {**self.chosen, (task, group): point}
        work, tried = self.work, [f"{name}={value:g}" for name, value in point.items()]
        made = adapter_of(work.study, work.path, self.part, task, group, search.seed, chosen)
        return replace(made, name=" ".join([made.name, *tried]))

    def _measure(self, search: Search, group: str, task: str, point: Point) -> Scores | None:
        """The scores of a trial under each cut; of one that diverged there are none."""
        work = self.work
        try:
            adapter = self._trial(search, group, task, point)
        except RecipeError:  # a grid that was widened beyond what the field takes
            return {}
        if missing := work.missing(self.part, [adapter], SEARCH):
            self.left += missing
            return None
        run = work.stored(self.part, SEARCH)
        name = run and adapter.stored(run, work.limit(adapter, SEARCH))
        curves = [c for c in run.curves if (c.adapter, c.task) == (name, task)] if run else []
        known = {(str(c.basis), str(c.rescale)): c for c in curves}
        wanted = (adapter.cuts or tuple(known)) if known else ()
        return {cut: score(known[cut], adapter.ranks, search.at) for cut in wanted}


def score(curve: Curve, ranks: Sequence[int], at: str | int) -> float:
    """AURAC over some ranks, or the accuracy at the rank that decides."""
    found = dict(zip(curve.ranks, curve.accuracy, strict=True))
    if at != "aurac":
        return float(found[int(at)])
    return float(quadrature_weights(ranks) @ [found[rank] for rank in ranks])
