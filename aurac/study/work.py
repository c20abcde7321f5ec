"""Does a study in its folder: searches, trains and evaluates what is missing, and reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from msgspec import structs

from aurac.analysis import analyse
from aurac.curves.area import quadrature_weights
from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.errors import DivergedError, RecipeError
from aurac.files import write_json
from aurac.models.base import check_base_name
from aurac.records.run import StoredRun, is_run, read_run
from aurac.show import write_report
from aurac.study.design import OVER, RUN, SEARCH, Job, Setting, Study
from aurac.study.file import Way, refused_at
from aurac.tasks.build import build_tasks
from aurac.training.recipe import Recipe

TRAININGS = "trainings.jsonl"  # below the study's
Diverged = dict[tuple[str, int], str]  # hash of a recipe and seed → how its training diverged


class Winner(NamedTuple):
    """What a search chose for a recipe.

    Attributes:
        cut: The best one over all tasks, each at its best setting.
        settings: Task → the best setting under that cut.
        trials: Every setting that was tried.
    """

    cut: Way
    settings: Mapping[str, Setting]
    trials: Sequence[Job]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        tasks: dict[str, Any] = {}
        for task, setting in self.settings.items():
            tasks[task] = {"chosen": dict(setting), "trials": []}
        for trial in self.trials:
            scores = {" ".join(cut): score(trial, cut) for cut in trial.curves}
            why = {"diverged": trial.why} if trial.why else {}
            tasks[trial.plan.task]["trials"].append({**trial.setting, "scores": scores, **why})
        return {"cut": list(self.cut), "tasks": tasks}

    def at_ends(self, recipe: str) -> Iterator[str]:
        """A sentence for each number that is the largest or the smallest of several."""
        for task, setting in self.settings.items():
            numbers = [(n, value) for n, value in setting.items() if type(value) in (int, float)]
            for name, value in numbers:
                tried = {x.setting[name] for x in self.trials if x.plan.task == task}
                if len(tried) > 1 and value in (min(tried), max(tried)):
                    end = "which is at an end of its list: a better value may lie beyond it."
                    yield f"The search of {recipe} on {task} chose {name}={value:g}, {end}"


class Survey(NamedTuple):
    """What is there of a part, and what is left to do.

    Attributes:
        run: What is stored of its seeds.
        winners: What the searches found that are whole, by recipe.
        jobs: Every trial and adapter, recipe by recipe.
    """

    run: StoredRun | None
    winners: dict[str, Winner]
    jobs: list[Job]


@dataclass
class StudyFolder:
    """A study in its folder.

    Attributes:
        study: What is done.
        out: Where all is kept: `adapters`, `trainings.jsonl`, and for each part `search`, `run` and
            the report.
        device: Of trainings and evaluations.
        progress: Whether to show bars.
        say: Called with what is done next.
    """

    study: Study
    out: Path
    device: str | None = None
    progress: bool = False
    say: Callable[[str], None] = logging.getLogger(__name__).info

    def survey(self, part: str) -> Survey:
        """What is stored of a part. A recipe waits whose settings are not known yet."""
        runs = {where: self._stored(part, where) for where in (RUN, SEARCH)}
        found, diverged = Survey(runs[RUN], {}, []), self._diverged()

        def seen(job: Job) -> Job:
            return self._seen(job, runs[job.where], diverged)

        for group, plans in self.study.parts[part].items():
            trials = [seen(plan.trial(setting)) for plan in plans for setting in plan.settings]
            won = choose(trials) if all(trial.state in OVER for trial in trials) else None
            if won:
                found.winners[group] = won
            chosen = won.settings if won else {}
            jobs = [plan.job(seed, chosen.get(plan.task)) for plan in plans for seed in plan.seeds]
            known = jobs if trials and not won else map(seen, jobs)
            found.jobs.extend([*trials, *known])
        return found

    def _stored(self, part: str, where: str) -> StoredRun | None:
        """The run in the `run` or `search` of a part, if there is one."""
        folder, search = self.out / part / where, self.study.file.search
        if not is_run(folder):
            return None
        limit = Question(limit=search.limit or None) if search and where == SEARCH else None
        return read_run(folder, limit)

    def _seen(self, job: Job, run: StoredRun | None, diverged: Diverged) -> Job:
        """A job that does not wait, with what is left of it."""
        if run and (curves := job.stored(run)):
            return replace(job, state="done", curves=curves)
        for recipe in job.trainings.values():
            if why := diverged.get((recipe.sha256, recipe.seed)):
                return replace(job, state="diverged", why=why)
        there = all((self.out / folder).exists() for folder in job.trainings)
        state = "evaluate" if there else "train"
        return replace(job, state="search" if job.where == SEARCH else state)

    def _diverged(self) -> Diverged:
        """How each recipe and seed diverged whose last training did."""
        path, found = self.out / TRAININGS, Diverged()
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # of a line that was cut off
                record = json.loads(line)
                found[record["sha256"], record["seed"]] = record.get("diverged", "")
        return found

    def todo(self, part: str) -> list[Job]:
        """What can be done now."""
        jobs = self.survey(part).jobs
        return [job for job in jobs if job.state not in ("wait", *OVER)]

    def do(self, part: str, job: Job) -> None:
        """Train what an adapter needs and evaluate it, unless the training diverges."""
        for folder, recipe in job.trainings.items():
            if not (self.out / folder).exists():
                self.say(f"training {folder} ({job.name})")
                if not self._trained(folder, recipe):
                    return
        self._evaluate(part, job)

    def _trained(self, folder: str, recipe: Recipe) -> bool:
        """Train an adapter and keep what it took; False where that diverges."""
        from aurac.training.job import train

        told: dict[str, Any] = {"folder": folder, "recipe": recipe.name, "seed": recipe.seed}
        told |= {"sha256": recipe.sha256, "data_sha256": recipe.data_sha256}
        try:
            done = train(recipe, self.out / folder, device=self.device, progress=self.progress)
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

    def _evaluate(self, part: str, job: Job) -> None:
        """Evaluate an adapter under each of its cuts in the `run` or `search` of a part."""
        from aurac.runs.compare import run
        from aurac.runs.progress import Bar

        adapter = self.out / job.folder
        where = {"device": self.device, "out": str(self.out / part / job.where)}
        asked = structs.replace(job.asked, checkpoints=(f"{adapter.name}={adapter}",), **where)
        for basis, rescale in job.plan.cuts:
            asked = structs.replace(asked, basis=(basis,), rescale=(rescale,))
            run(asked, Bar() if self.progress else None, report=False)


def choose(trials: Sequence[Job]) -> Winner | None:
    """The cut that is best over the tasks, each at its best setting, and these settings.

    Args:
        trials: Those of a recipe on all tasks, none of which is left to do. One that diverged is
            not chosen; of equal ones the first is.

    Returns:
        None where every trial of a task diverged, or there is none.
    """
    scored: dict[str, list[Job]] = {trial.plan.task: [] for trial in trials}
    for trial in trials:
        if trial.curves:
            scored[trial.plan.task].append(trial)
    if not scored or not all(scored.values()):
        return None

    def best(task: str, cut: Way) -> Job:
        return max(scored[task], key=lambda trial: score(trial, cut))

    def total(cut: Way) -> float:
        return sum(score(best(task, cut), cut) for task in scored)

    cut = max(trials[0].plan.cuts, key=total)
    return Winner(cut, {task: best(task, cut).setting for task in scored}, trials)


def score(trial: Job, cut: Way) -> float:
    """AURAC over the ranks of the study, or the accuracy at the rank that decides."""
    curve, at = trial.curves[cut], trial.plan.search.at
    if at != "aurac":
        return curve.at([at]).accuracy[0]
    return float(quadrature_weights(trial.ranks) @ curve.at(trial.ranks).accuracy)


def run_study(study_folder: StudyFolder) -> list[StoredRun]:
    """Train and evaluate what a study lacks, and write a report for each part; their runs.

    Adapters whose cells are there are not trained again, nor are their weights needed. Each is
    evaluated before the next is trained, recipe by recipe, and the same call goes on after an
    interruption. Several processes share a study: each takes trials and adapters that no other is
    doing, and at the end goes back once to what others had.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    left(study_folder)
    for part in 2 * [*study_folder.study.parts]:  # and once back to what another process had
        _do(study_folder, part)
    found = {part: study_folder.survey(part) for part in study_folder.study.parts}
    every = [job for each in found.values() for job in each.jobs]
    if names := [job.name for job in every if job.state not in OVER]:
        study_folder.say(f"left, which failed or which another process has: {', '.join(names)}")
    made = [_report(study_folder, part, each) for part, each in found.items()]
    return [run for run in made if run is not None]


def _do(study_folder: StudyFolder, part: str) -> None:
    """Do what is left of a part and what no other process is doing."""
    tried = list[Job]()
    while todo := [job for job in study_folder.todo(part) if job not in tried]:
        tried.append(job := todo[0])
        with suppress(Timeout), ExitStack() as locks:
            for folder in job.trainings:
                locks.enter_context(FileLock(f"{study_folder.out / folder}.lock", timeout=0))
            if job in study_folder.todo(part):  # another process may have done it
                study_folder.say(f"{job.name}: {len(todo)} can be done now")
                study_folder.do(part, job)


def jobs(study_folder: StudyFolder) -> list[Job]:
    """Every trial and adapter, and what is left of it."""
    return [job for part in study_folder.study.parts for job in study_folder.survey(part).jobs]


def left(study_folder: StudyFolder) -> list[Job]:
    """The same, once a base that is not there and tasks that cannot be built are refused."""
    every = jobs(study_folder)
    todo = (job for job in every if job.state not in OVER)
    asked = {(job.plan.task, job.recipe.base, job.where): job for job in todo}
    for (task, base, _), job in asked.items():
        with refused_at(f"{study_folder.study.path}: tasks.{task}: {job.name}"):
            check_base_name(base)
            options = structs.replace(job.asked, apply_chat_template=False)
            built = [each.name for each in build_tasks([task], tokenizer=None, options=options)]
            if task not in built:
                several = f"the task stands for {', '.join(built)}"
                raise RecipeError(f"{several}: name these, with include_path")
    return every


def _report(study_folder: StudyFolder, part: str, found: Survey) -> StoredRun | None:
    """Write what a search chose, and the report of a part; None where no adapter is whole.

    The report is that of a question to the part's run, from which alone it can be made again.
    """
    folder, asked = study_folder.out / part, _question(study_folder.study, part, found)
    if found.winners:
        won = {name: winner.record() for name, winner in found.winners.items()}
        write_json(folder / "search.json", won)
    if found.run is None or not asked.rows:
        return None
    view = found.run.under(asked)
    write_report(view, analyse(view), folder)
    return view


def _question(study: Study, part: str, found: Survey) -> Question:
    """What a study asks of the run of a part.

    Its rows are the cuts of the adapters that are whole, each recipe's own cut first, under the
    study's names: recipes that are the same with the settings that were found share adapters. The
    primary comparisons are one family with those of the other parts, and are asked once all of
    their adapters are there.
    """
    file, winners = study.file, found.winners
    notes = [f"{job.name}: {job.why}" for job in found.jobs if job.why]
    notes += [said for name, winner in winners.items() for said in winner.at_ends(name)]
    own = {group: plans[0].cuts[0] for group, plans in study.parts[part].items()}
    own |= {group: winner.cut for group, winner in winners.items()}
    groups, rows = dict[str, dict[str, None]](), list[Renamed]()
    seeds = [job for job in found.jobs if job.where == RUN]
    for job in (job for job in seeds if job.curves):
        group, task, curves = job.plan.group, job.plan.task, job.curves
        groups.setdefault(group, {})[job.name] = None
        cuts = sorted(curves, key=lambda cut: cut != own[group])
        rows += [Renamed(job.name, str(curves[cut].adapter), task, *cut) for cut in cuts]
    of = [[Key(x, *(pair.cut or own[x])) for x in (pair.a, pair.b)] for pair in study.primary(part)]
    missing = {job.plan.group for job in seeds if not job.curves}
    if lacking := sorted(missing.intersection(key.adapter for pair in of for key in pair)):
        notes += [f"The declared comparisons are not made yet: {', '.join(lacking)} is not whole."]
        of = []
    limits = {job.asked.limit or 0 for job in seeds}
    return Question(
        margin=file.margin,
        reference=file.reference if file.reference in (*groups, ALL_PAIRS) else None,
        groups={group: tuple(names) for group, names in groups.items()},
        ranks=tuple(sorted(set.intersection(*({*job.ranks} for job in seeds)))),
        rows=tuple(rows),
        limit=int(min(limits)) or None if len(limits) == 1 else None,
        labels={name: label for name, label in file.labels.items() if name in groups},
        title=file.question,
        primary=tuple((a, b) for a, b in of),
        family=sum(len(study.primary(name)) for name in study.parts) if of else None,
        notes=tuple(notes),
    )
