"""The search of a study: settings and cut of each recipe, chosen on validation examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from aurac.curves.area import quadrature_weights
from aurac.errors import RecipeError
from aurac.study.design import SEARCH, Part, Plan, Planned, Point, words_of
from aurac.study.file import Cut, Search
from aurac.study.work import Work

if TYPE_CHECKING:
    from aurac.curves.curve import Curve


class Trial(NamedTuple):
    """A setting that was tried.

    Attributes:
        point: The value of each searched field.
        scores: What it scored under each cut; empty where its training diverged.
        diverged: How it did.
    """

    point: Point
    scores: Mapping[Cut, float]
    diverged: str = ""


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
    trials: Mapping[str, Sequence[Trial]]

    def at_an_end(self, task: str) -> list[str]:
        """The fields whose chosen value is the largest or the smallest of several."""
        tried = {n: {trial.point[n] for trial in self.trials[task]} for n in self.points[task]}
        return [
            name
            for name, value in self.points[task].items()
            if len(tried[name]) > 1 and value in (min(tried[name]), max(tried[name]))
        ]

    def said(self) -> list[str]:
        """What whoever chose the values should know."""
        return [
            f"on {task} the best value, {words_of({name: point[name]})[0]}, is at an end of its list"
            for task, point in self.points.items()
            for name in self.at_an_end(task)
        ] + [
            f"on {task} the trial {' '.join(words_of(trial.point))} has no score: {trial.diverged}"
            for task, tried in self.trials.items()
            for trial in tried
            if trial.diverged
        ]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cut": list(self.cut),
            "tasks": {
                task: {
                    "chosen": dict(self.points[task]),
                    **({"at_an_end": ends} if (ends := self.at_an_end(task)) else {}),
                    "trials": [
                        {
                            **trial.point,
                            "scores": {" ".join(cut): s for cut, s in trial.scores.items()},
                            **({"diverged": trial.diverged} if trial.diverged else {}),
                        }
                        for trial in tried
                    ],
                }
                for task, tried in self.trials.items()
            },
        }


def choose(trials: Mapping[str, Sequence[Trial]]) -> Winner:
    """The cut that is best over the tasks, each at its best setting, and these settings.

    Args:
        trials: Task → all that was tried. A trial without a score is below all others; of equal
            ones the first is chosen.

    Raises:
        RecipeError: A task has no trial with a score.
    """
    for task, tried in trials.items():
        if not any(trial.scores for trial in tried):
            raise RecipeError(f"every trial on {task} failed ({tried[0].diverged}): try others")

    def best(task: str, cut: Cut) -> Trial:
        return max(trials[task], key=lambda trial: trial.scores.get(cut, -1.0))

    cuts = dict.fromkeys(
        cut for tried in trials.values() for trial in tried for cut in trial.scores
    )
    means = {cut: sum(best(task, cut).scores.get(cut, -1.0) for task in trials) for cut in cuts}
    cut = max(means, key=lambda each: means[each])
    return Winner(cut, {task: best(task, cut).point for task in trials}, trials)


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
        plans = [plan for plan in self.part.plans if plan.group == group]
        search = self.work.study.search
        every = {p.task: [self._trial(p, search, x) for x in p.points] for p in plans if search}
        tried = {task: [trial for trial in some if trial] for task, some in every.items() if some}
        if tried and tried == {task: every[task] for task in tried}:
            try:
                self.winners[group] = choose(tried)
            except RecipeError as error:
                raise RecipeError(f"{self.work.study.path}: search of {group}: {error}") from error
        return [plan.adapter(seed, self.chosen) for plan in plans for seed in plan.seeds]

    @property
    def chosen(self) -> dict[tuple[str, str], Point]:
        """Task and recipe → the settings that were found."""
        return {(t, name): x for name, won in self.winners.items() for t, x in won.points.items()}

    def _trial(self, plan: Plan, search: Search, point: Point) -> Trial | None:
        """How a setting scored; None if it is missing."""
        adapter = plan.adapter(search.seed, {**self.chosen, (plan.task, plan.group): point})
        adapter = replace(adapter, name=" ".join([adapter.name, *words_of(point)]))
        if lost := self.work.diverged([adapter]):
            return Trial(point, {}, lost[adapter.name])
        run = self.work.stored(self.part, SEARCH)
        if run is None or (name := adapter.stored(run, SEARCH)) is None:
            self.left.append(adapter)
            return None
        curves = [c for c in run.curves if (c.adapter, c.task) == (name, plan.task)]
        known = {(c.basis, c.rescale): c for c in curves}
        return Trial(point, {x: score(known[x], adapter.ranks, search.at) for x in plan.cuts})


def score(curve: Curve, ranks: Sequence[int], at: str | int) -> float:
    """AURAC over some ranks, or the accuracy at the rank that decides."""
    found = dict(zip(curve.ranks, curve.accuracy, strict=True))
    if at != "aurac":
        return float(found[int(at)])
    return float(quadrature_weights(ranks) @ [found[rank] for rank in ranks])
