"""The search of a study: settings and cut of each recipe, chosen on validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.study.design import Part, Point, words_of
from aurac.study.file import Cut
from aurac.study.work import Step, Work

OVER = ("done", "diverged")


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
        """A sentence for each value that is the largest or the smallest of several."""
        for task, point in self.points.items():
            for name, value in point.items():
                tried = sorted({trial.point[name] for trial in self.trials[task]})
                if len(tried) > 1 and value in (tried[0], tried[-1]):
                    (word,) = words_of({name: value})
                    end = "which is at an end of its list: a better value may lie beyond it."
                    yield f"The search of {recipe} on {task} chose {word}, {end}"


def choose(tried: Mapping[str, Sequence[Trial]]) -> Winner | None:
    """The cut that is best over the tasks, each at its best setting, and these settings.

    Args:
        tried: Task → its trials. One without a score is below all others; of equal ones the first
            is chosen.

    Returns:
        None where a task has no trial with a score.
    """
    if not all(any(trial.scores for trial in each) for each in tried.values()):
        return None

    def best(task: str, cut: Cut) -> Trial:
        return max(tried[task], key=lambda trial: trial.scores.get(cut, -1.0))

    cuts = dict.fromkeys(cut for each in tried.values() for trial in each for cut in trial.scores)
    means = {cut: sum(best(task, cut).scores.get(cut, -1.0) for task in tried) for cut in cuts}
    cut = max(means, key=lambda each: means[each])
    return Winner(cut, {task: best(task, cut).point for task in tried}, tried)


class Survey(NamedTuple):
    """What is there of a part, and what is left to do.

    Attributes:
        winners: What the searches found that are whole, by recipe.
        steps: Every trial and adapter, recipe by recipe, each after the one that it goes on from.
    """

    winners: dict[str, Winner]
    steps: list[Step]

    def said(self) -> tuple[str, ...]:
        """What a reader of the results should know."""
        lost = [f"{step.adapter.name}: {step.why}" for step in self.steps if step.why]
        ends = [said for name, won in self.winners.items() for said in won.at_ends(name)]
        return (*lost, *ends)


def survey(work: Work, part: Part) -> Survey:
    """What is stored of a part. A recipe waits whose settings are not known yet."""
    found, waiting = Survey({}, []), set[str]()
    chosen: dict[tuple[str, str], Point] = {}
    for group, plans in part.groups.items():
        waits = any(plan.source and plan.source.group in waiting for plan in plans)
        settings = [plan.trial(point, chosen) for plan in plans for point in plan.points]
        trials = [work.step(part, adapter, waits=waits) for adapter in settings]
        whole = all(step.state in OVER for step in trials)
        if trials and whole and (won := choose(_tried(trials))):
            found.winners[group] = won
            chosen |= {(task, group): point for task, point in won.points.items()}
        elif trials:
            waits = True
        waiting |= {group} if waits else set()
        adapters = [plan.adapter(seed, chosen) for plan in plans for seed in plan.seeds]
        found.steps.extend(trials)
        found.steps.extend(work.step(part, x, waits=waits) for x in adapters)
    return found


def _tried(steps: Sequence[Step]) -> dict[str, list[Trial]]:
    """Task → how each setting scored."""
    tried: dict[str, list[Trial]] = {}
    for _, adapter, curves, why in steps:
        at = adapter.plan.search.at
        scores = {cut: score(curve, adapter.ranks, at) for cut, curve in curves.items()}
        tried.setdefault(adapter.plan.task, []).append(Trial(adapter.point, scores, why))
    return tried


def score(curve: Curve, ranks: Sequence[int], at: str | int) -> float:
    """AURAC over some ranks, or the accuracy at the rank that decides."""
    found = dict(zip(curve.ranks, curve.accuracy, strict=True))
    if at != "aurac":
        return float(found[int(at)])
    return float(quadrature_weights(ranks) @ [found[rank] for rank in ranks])
