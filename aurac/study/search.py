"""The search of a study: settings and cut of each recipe, chosen on validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.study.design import Point
from aurac.study.file import Cut


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

    def record(self) -> dict[str, Any]:
        """As JSON."""
        scores = {" ".join(cut): score for cut, score in self.scores.items()}
        why = {"diverged": self.diverged} if self.diverged else {}
        return {**self.point, "scores": scores, **why}


class Winner(NamedTuple):
    """What a search chose for a recipe.

    Attributes:
        cut: The best one over all tasks, each at its best setting.
        points: Task → the best setting under that cut.
        trials: Task → what was tried, and how it scored.
    """

    cut: Cut
    points: Mapping[str, Point]
    trials: Mapping[str, Sequence[Trial]]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        tasks = {
            task: {"chosen": dict(self.points[task]), "trials": [x.record() for x in tried]}
            for task, tried in self.trials.items()
        }
        return {"cut": list(self.cut), "tasks": tasks}

    def at_ends(self, recipe: str) -> Iterator[str]:
        """A sentence for each number that is the largest or the smallest of several."""
        for task, point in self.points.items():
            numbers = {name: value for name, value in point.items() if type(value) in (int, float)}
            for name, value in numbers.items():
                tried = {trial.point[name] for trial in self.trials[task]}
                if len(tried) > 1 and value in (min(tried), max(tried)):
                    end = "which is at an end of its list: a better value may lie beyond it."
                    yield f"The search of {recipe} on {task} chose {name}={value:g}, {end}"


def choose(tried: Mapping[str, Sequence[Trial]]) -> Winner | None:
    """The cut that is best over the tasks, each at its best setting, and these settings.

    Args:
        tried: Task → its trials. One without a score is below all others; of equal ones the first
            is chosen.

    Returns:
        None where a task has no trial with a score.
    """
    scored = {task: [trial for trial in each if trial.scores] for task, each in tried.items()}
    if not scored or not all(scored.values()):
        return None

    def best(task: str, cut: Cut) -> Trial:
        return max(scored[task], key=lambda trial: trial.scores[cut])

    def mean(cut: Cut) -> float:
        return sum(best(task, cut).scores[cut] for task in scored)

    cut = max(next(iter(scored.values()))[0].scores, key=mean)
    return Winner(cut, {task: best(task, cut).point for task in scored}, tried)


def score(curve: Curve, ranks: Sequence[int], at: str | int) -> float:
    """AURAC over some ranks, or the accuracy at the rank that decides."""
    if at != "aurac":
        return curve.at([int(at)]).accuracy[0]
    return float(quadrature_weights(ranks) @ curve.at(ranks).accuracy)
