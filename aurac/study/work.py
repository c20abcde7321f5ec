"""Does a study in its folder: searches, trains and evaluates what is missing, and reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from msgspec import structs

from aurac.adapters import truncate
from aurac.analysis import analyse
from aurac.curves.curve import Curve
from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.errors import DivergedError, RecipeError
from aurac.files import write_json
from aurac.models.base import check_base_name
from aurac.records.run import StoredRun, is_run, read_run
from aurac.show import write_report
from aurac.study.design import RUN, SEARCH, Part, Planned, Point, Study, Training
from aurac.study.file import Cut, refused_at
from aurac.study.search import Trial, Winner, choose, score
from aurac.tasks.build import build_tasks
from aurac.training.data import render, source_rows

TRAININGS = "trainings.jsonl"  # below the study's
OVER = ("done", "diverged")
Diverged = dict[tuple[str, int], str]  # hash of a recipe and seed → how its training diverged


class Step(NamedTuple):
    """An adapter of a part, and what is left of it.

    Attributes:
        state: `search`, `train`, `evaluate`, or `wait` for a search; else `done`, or `diverged`.
        adapter: A seed of a recipe, or a trial.
        curves: Of one that is done, that of each cut.
        why: How its training diverged.
    """

    state: str
    adapter: Planned
    curves: Mapping[Cut, Curve] = {}
    why: str = ""


class Survey(NamedTuple):
    """What is there of a part, and what is left to do.

    Attributes:
        run: What is stored of its seeds.
        winners: What the searches found that are whole, by recipe.
        steps: Every trial and adapter, recipe by recipe, each after the one that it goes on from.
    """

    run: StoredRun | None
    winners: dict[str, Winner]
    steps: list[Step]


@dataclass
class Work:
    """A study in its folder.

    Attributes:
        study: What is done.
        out: Where all is kept: `adapters`, `trainings.jsonl`, and for each part `search`, `run` and
            the report.
        device: Of trainings and evaluations.
        progress: Whether to show bars.
        say: Called with what is done next.
        train: Trains a recipe to a folder, as `aurac.train` does; None: that.
    """

    study: Study
    out: Path
    device: str | None = None
    progress: bool = False
    say: Callable[[str], None] = logging.getLogger(__name__).info
    train: Callable[..., Any] | None = None

    def survey(self, part: Part) -> Survey:
        """What is stored of a part. A recipe waits whose settings are not known yet."""
        runs = {where: self._stored(part, where) for where in (RUN, SEARCH)}
        diverged, waiting = self._diverged(), set[str]()
        chosen: dict[tuple[str, str], Point] = {}
        found = Survey(runs[RUN], {}, [])

        def step(adapter: Planned) -> Step:
            if adapter.plan.group in waiting:
                return Step("wait", adapter)
            return self._step(adapter, runs[adapter.where], diverged)

        for group, plans in part.groups.items():
            if any(plan.source and plan.source.group in waiting for plan in plans.values()):
                waiting.add(group)
            settings = [(plan, point) for plan in plans.values() for point in plan.points]
            trials = [step(plan.trial(point, chosen)) for plan, point in settings]
            if all(step.state in OVER for step in trials) and (won := choose(_tried(trials))):
                found.winners[group] = won
                chosen |= {(task, group): point for task, point in won.points.items()}
            elif trials:
                waiting.add(group)
            seeds = [plan.adapter(seed, chosen) for plan in plans.values() for seed in plan.seeds]
            found.steps.extend([*trials, *map(step, seeds)])
        return found

    def _stored(self, part: Part, where: str) -> StoredRun | None:
        """The run in the `run` or `search` of a part, if there is one."""
        folder, search = self.out / part.name / where, self.study.file.search
        if not is_run(folder):
            return None
        limit = Question(limit=search.limit or None) if search and where == SEARCH else None
        return read_run(folder, limit)

    def _step(self, adapter: Planned, run: StoredRun | None, diverged: Diverged) -> Step:
        """What is left of an adapter that does not wait."""
        if run and (curves := adapter.stored(run)):
            return Step("done", adapter, curves)
        for _, recipe, _ in adapter.trainings:
            if why := diverged.get((recipe.sha256, recipe.seed)):
                return Step("diverged", adapter, why=why)
        there = all((self.out / job.folder).exists() for job in adapter.trainings)
        state = "evaluate" if there else "train"
        return Step("search" if adapter.where == SEARCH else state, adapter)

    def _diverged(self) -> Diverged:
        """How each recipe and seed diverged whose last training did."""
        path, found = self.out / TRAININGS, Diverged()
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # of a line that was cut off
                record = json.loads(line)
                found[record["sha256"], record["seed"]] = record.get("diverged", "")
        return found

    def todo(self, part: Part) -> list[Planned]:
        """What can be done now."""
        steps = self.survey(part).steps
        return [step.adapter for step in steps if step.state not in ("wait", *OVER)]

    def do(self, part: Part, adapter: Planned) -> None:
        """Train what an adapter needs and evaluate it, unless the training diverges."""
        for job in adapter.trainings:
            if not (self.out / job.folder).exists() and not self._trained(job, adapter.name):
                return
        self._evaluate(part, adapter)

    def _trained(self, job: Training, name: str) -> bool:
        """Train an adapter and keep what it took; False where that diverges."""
        from aurac.training.job import train

        folder, recipe = self.out / job.folder, job.recipe
        told: dict[str, Any] = {"folder": job.folder, "recipe": recipe.name, "seed": recipe.seed}
        told |= {"sha256": recipe.sha256, "data_sha256": recipe.data_sha256}
        self.say(f"training {job.folder} ({name})")
        start = truncate(self.out / job.start, recipe.rank, basis="svd") if job.start else None
        how: dict[str, Any] = {"device": self.device, "progress": self.progress}
        try:
            done = (self.train or train)(recipe, folder, start=start, **how)
            told |= {"seconds": round(done.seconds, 1), "tokens": done.tokens}
            told |= {"memory": done.memory, "losses": done.losses}
        except DivergedError as error:
            self.say(str(error))
            told["diverged"] = str(error)
        path = self.out / TRAININGS
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as lines:
            lines.write("\n" * torn + json.dumps(told) + "\n")
        return "diverged" not in told

    def _evaluate(self, part: Part, adapter: Planned) -> None:
        """Evaluate an adapter under each of its cuts in the `run` or `search` of a part."""
        from aurac.runs.compare import run
        from aurac.runs.progress import Bar

        settings = structs.replace(
            adapter.asked,
            checkpoints=(f"{Path(adapter.folder).name}={self.out / adapter.folder}",),
            device=self.device,
            out=str(self.out / part.name / adapter.where),
        )
        for basis, rescale in adapter.plan.cuts:
            settings = structs.replace(settings, basis=(basis,), rescale=(rescale,))
            run(settings, Bar() if self.progress else None, report=False)


def _tried(steps: list[Step]) -> dict[str, list[Trial]]:
    """Task → how each setting scored."""
    tried: dict[str, list[Trial]] = {}
    for _, adapter, curves, why in steps:
        at = adapter.plan.search.at
        scores = {cut: score(curve, adapter.ranks, at) for cut, curve in curves.items()}
        tried.setdefault(adapter.plan.task, []).append(Trial(adapter.point, scores, why))
    return tried


def run_study(work: Work) -> list[StoredRun]:
    """Train and evaluate what a study lacks, and write a report for each part; their runs.

    Adapters whose cells are there are not trained again, nor are their weights needed. Each is
    evaluated before the next is trained, recipe by recipe, and the same call goes on after an
    interruption. Several processes share a study: each takes trials and adapters that no other is
    doing, and at the end goes back once to what others had.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    left(work)
    for part in 2 * work.study.parts:  # and once back to what another process had
        _do(work, part)
    found = [(part, work.survey(part)) for part in work.study.parts if part.groups]
    every = [step for _, each in found for step in each.steps]
    if names := [step.adapter.name for step in every if step.state not in OVER]:
        work.say(f"left, which failed or which another process has: {', '.join(names)}")
    made = [_report(work, part, each) for part, each in found]
    return [run for run in made if run is not None]


def _do(work: Work, part: Part) -> None:
    """Do what is left of a part and what no other process is doing."""
    tried = list[Planned]()
    while todo := [adapter for adapter in work.todo(part) if adapter not in tried]:
        tried.append(adapter := todo[0])
        with suppress(Timeout), ExitStack() as locks:
            for job in adapter.trainings:
                locks.enter_context(FileLock(f"{work.out / job.folder}.lock", timeout=0))
            if adapter in work.todo(part):  # another process may have done it
                work.say(f"{adapter.name}: {len(todo)} can be done now")
                work.do(part, adapter)


def steps(work: Work) -> list[Step]:
    """Every trial and adapter, and what is left of it."""
    return [step for part in work.study.parts for step in work.survey(part).steps]


def left(work: Work) -> list[Step]:
    """The same, once data that cannot be trained on and tasks that cannot be built are refused."""
    every, asked = steps(work), dict[tuple[str, ...], Planned]()
    for adapter in (step.adapter for step in every if step.state not in OVER):
        of = ("base", "task", "data", "prompt", "prompt_without", "target")
        data = (getattr(adapter.recipe, name) for name in of)
        asked[(adapter.plan.task, adapter.where, *data)] = adapter
    for (task, *_), adapter in asked.items():
        with refused_at(f"{work.study.path}: tasks.{task}: {adapter.name}"):
            check_base_name(adapter.recipe.base)
            if not (work.out / adapter.folder).exists():
                render(adapter.recipe, source_rows(adapter.recipe)[0], 1)
            options = structs.replace(adapter.asked, apply_chat_template=False)
            built = [each.name for each in build_tasks([task], tokenizer=None, options=options)]
            if task not in built:
                several = f"the task stands for {', '.join(built)}"
                raise RecipeError(f"{several}: name these, with include_path")
    return every


def _report(work: Work, part: Part, found: Survey) -> StoredRun | None:
    """Write what a search chose, and the report of a part; None where no adapter is whole.

    The report is that of a question to the part's run, from which alone it can be made again.
    """
    folder, asked = work.out / part.name, _question(work.study, part, found)
    if found.winners:
        won = {name: winner.record() for name, winner in found.winners.items()}
        write_json(folder / "search.json", won)
    if found.run is None or not asked.rows:
        return None
    view = found.run.under(asked)
    write_report(view, analyse(view), folder)
    return view


def _question(study: Study, part: Part, found: Survey) -> Question:
    """What a study asks of the run of a part.

    Its rows are the cuts of the adapters that are whole, each recipe's own cut first, under the
    study's names: recipes that are the same with the settings that were found share adapters. The
    primary comparisons are one family with those of the other parts, and are asked once all of
    their adapters are there.
    """
    file, winners = study.file, found.winners
    notes = [f"{step.adapter.name}: {step.why}" for step in found.steps if step.why]
    notes += [said for name, winner in winners.items() for said in winner.at_ends(name)]
    own = {group: next(iter(plans.values())).cuts[0] for group, plans in part.groups.items()}
    own |= {group: winner.cut for group, winner in winners.items()}
    groups, rows = dict[str, dict[str, None]](), list[Renamed]()
    seeds = [step for step in found.steps if step.adapter.where == RUN]
    for _, adapter, curves, _ in (step for step in seeds if step.curves):
        group, task = adapter.plan.group, adapter.plan.task
        groups.setdefault(group, {})[adapter.name] = None
        cuts = sorted(curves, key=lambda cut: cut != own[group])
        rows += [Renamed(adapter.name, str(curves[cut].adapter), task, *cut) for cut in cuts]
    pairs = [[Key(x, *(pair.cut or own[x])) for x in (pair.a, pair.b)] for pair in part.primary]
    missing = {step.adapter.plan.group for step in seeds if not step.curves}
    if lacking := sorted(missing.intersection(x.adapter for pair in pairs for x in pair)):
        notes += [f"The declared comparisons are not made yet: {', '.join(lacking)} is not whole."]
        pairs = []
    limits = {step.adapter.asked.limit or 0 for step in seeds}
    return Question(
        margin=file.margin,
        reference=file.reference if file.reference in (*groups, ALL_PAIRS) else None,
        groups={group: tuple(names) for group, names in groups.items()},
        ranks=tuple(sorted(set.intersection(*({*step.adapter.ranks} for step in seeds)))),
        rows=tuple(rows),
        limit=int(min(limits)) or None if len(limits) == 1 else None,
        labels={name: label for name, label in file.labels.items() if name in groups},
        title=file.question,
        primary=tuple((a, b) for a, b in pairs),
        family=sum(len(each.primary) for each in study.parts) if pairs else None,
        notes=tuple(notes),
    )
