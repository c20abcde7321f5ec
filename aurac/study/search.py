"""The search of a study: settings and cut of each recipe, chosen on validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aurac.curves.area import quadrature_weights
from aurac.study.design import RUN, SEARCH, Part, Planned, Point, words_of
from aurac.study.file import Cut
from aurac.study.work import Work

if TYPE_CHECKING:
    from aurac.curves.curve import Curve
    from aurac.study.file import Search


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


def choose(trials: Mapping[str, Sequence[Trial | None]]) -> Winner | None:
    """The cut that is best over the tasks, each at its best setting, and these settings.

    Args:
        trials: Task → all that are tried; None: one that is missing. One without a score is below
            all others; of equal ones the first is chosen.

    Returns:
        None where a trial is missing, or a task has none with a score.
    """
    tried = {task: [trial for trial in each if trial] for task, each in trials.items()}
    if tried != trials or not all(any(x.scores for x in each) for each in tried.values()):
        return None

    def best(task: str, cut: Cut) -> Trial:
        return max(tried[task], key=lambda trial: trial.scores.get(cut, -1.0))

    cuts = dict.fromkeys(cut for each in tried.values() for trial in each for cut in trial.scores)
    means = {cut: sum(best(task, cut).scores.get(cut, -1.0) for task in tried) for cut in cuts}
    cut = max(means, key=lambda each: means[each])
    return Winner(cut, {task: best(task, cut).point for task in tried}, tried)


class Step(NamedTuple):
    """An adapter of a part, and what is left of it.

    Attributes:
        state: `search`, `train`, `evaluate`, or `wait` for a search; else `done`, or `diverged`.
        adapter: A seed of a recipe, or a trial.
        where: `run`, or of a trial `search`.
        why: How its training diverged.
    """

    state: str
    adapter: Planned
    where: str
    why: str = ""


class Survey(NamedTuple):
    """What is there of a part, and what is left to do.

    Attributes:
        winners: What the searches found that are whole, by recipe.
        steps: Every trial and adapter, recipe by recipe, each after the one that it goes on from.
    """

    winners: dict[str, Winner]
    steps: list[Step]

    @property
    def adapters(self) -> list[Planned]:
        """All but the trials."""
        return [step.adapter for step in self.steps if step.where == RUN]

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
        trials: dict[str, list[Trial | None]] = {}
        for plan, point in ((p, x) for p in plans for x in p.points):
            search = cast("Search", work.study.search)  # else there are no points
            adapter = plan.trial(search.seed, chosen, point)
            step = _step(work, part, adapter, SEARCH, waits=waits)
            found.steps.append(step)
            trials.setdefault(plan.task, []).append(_trial(work, part, step, point, search.at))
        if trials:
            if (won := choose(trials)) is None:
                waits = True
            else:
                found.winners[group] = won
                chosen |= {(task, group): point for task, point in won.points.items()}
        waiting |= {group} if waits else set()
        adapters = [plan.adapter(seed, chosen) for plan in plans for seed in plan.seeds]
        found.steps.extend(_step(work, part, x, RUN, waits=waits) for x in adapters)
    return found


def _step(work: Work, part: Part, adapter: Planned, where: str, *, waits: bool) -> Step:
    state, why = ("wait", "") if waits else work.state(part, adapter, where)
    searched = where == SEARCH and state in ("train", "evaluate")
    return Step("search" if searched else state, adapter, where, why)


def _trial(work: Work, part: Part, step: Step, point: Point, at: str | int) -> Trial | None:
    """How a setting scored; None if it is missing."""
    run, adapter = work.stored(part, SEARCH), step.adapter
    if step.state != "done" or run is None:
        return Trial(point, {}, step.why) if step.why else None
    name, task = adapter.stored(run, SEARCH), adapter.plan.task
    curves = [c for c in run.curves if (c.adapter, c.task) == (name, task)]
    known = {(c.basis, c.rescale): c for c in curves}
    return Trial(point, {x: score(known[x], adapter.ranks, at) for x in adapter.plan.cuts})


def score(curve: Curve, ranks: Sequence[int], at: str | int) -> float:
    """AURAC over some ranks, or the accuracy at the rank that decides."""
    found = dict(zip(curve.ranks, curve.accuracy, strict=True))
    if at != "aurac":
        return float(found[int(at)])
    return float(quadrature_weights(ranks) @ [found[rank] for rank in ranks])
