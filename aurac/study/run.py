"""Runs a study: search, trainings, evaluations; whatever is there already is not done again."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import filelock
import msgspec

from aurac.adapters import load_adapter
from aurac.adapters.formats.outline import remove_weights
from aurac.errors import DivergedError, RecipeError, RunFolderError
from aurac.files import sha256_tree, write_atomic, write_json
from aurac.models.device import versions
from aurac.report import write_report
from aurac.runs.compare import compare
from aurac.runs.folder import remove_texts
from aurac.runs.session import Lookup
from aurac.runs.settings import separated
from aurac.study.plan import STATE_FILE, converged, diverged, read_state
from aurac.study.trainings import PlannedAdapter, Training, results_of, searches
from aurac.training.data import located_data, render, training_documents
from aurac.training.job import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aurac.runs.run import Run
    from aurac.study.design import Documents, Study

logger = logging.getLogger(__name__)

_WAIT = 2.0  # seconds between looks at a training that another process does


def run_study(
    study: Study,
    path: Path,
    out: Path,
    *,
    device: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Search learning rates, train, evaluate; returns the content of `study.json`.

    Several processes may run the same study in the same folder: each adapter is trained by one of
    them, and the cells of an evaluation are shared.

    Args:
        study: What is done.
        path: Its file.
        out: Folder of adapters, evaluations and results; an interrupted study goes on.
        device: As `aurac.models.device.pick_device`.
        progress: Show progress bars.
        say: Takes a line for each step.

    Raises:
        AuracError: A recipe, data or a task that cannot be used; a folder of another study.
    """
    runner = StudyRunner(study, path, out, device, say, progress=progress)
    runner.check_data()
    for task in study.tasks:
        runner.search(task)
    for task in study.tasks:
        runner.evaluate(task)
    return runner.state


class StudyRunner:
    """Trains and evaluates what is not there yet in the folder of a study."""

    def __init__(
        self,
        study: Study,
        path: Path,
        out: Path,
        device: str | None,
        say: Callable[[str], None],
        *,
        progress: bool,
    ) -> None:
        self.study, self.path, self.out, self.device = study, path, out, device
        self.say, self.progress = say, progress
        out.mkdir(parents=True, exist_ok=True)
        if not (out / ".gitignore").exists():
            write_atomic(out / ".gitignore", "*.lock\nlocks/\nlogs/\n/check/\n")
        self.state, self.checked = read_state(out), False

    def keep(self, **values: Any) -> None:
        """Merge values into `study.json`, which other processes may have changed."""
        with filelock.FileLock(self.out / f"{STATE_FILE}.lock"):
            self.state = read_state(self.out)
            for name, value in values.items():
                if isinstance(value, dict):
                    value = {**self.state.get(name, {}), **value}  # noqa: PLW2901
                self.state[name] = value
            content = {"schema": 1, **self.state, "study": msgspec.to_builtins(self.study)}
            write_json(self.out / STATE_FILE, {**content, "versions": versions()})

    def check_data(self) -> None:
        """Record the hashes of local training data.

        Raises:
            RunFolderError: Data have changed since the study began.
        """
        recipes = {one.task: one.recipe for one in results_of(self.study, self.path)}
        hashes = {
            task: sha256_tree(located_data(recipe.data, recipe.folder))
            for task, recipe in recipes.items()
            if recipe.data and not recipe.data.startswith("hub:")
        }
        for task, digest in self.state.get("data", {}).items():
            if task in hashes and hashes[task] != digest:
                raise RunFolderError(
                    f"the training data of {task} have changed since {self.out} was begun",
                    expected=f"data with the SHA-256 {digest}",
                    fix="restore the data or choose another --out",
                )
        self.keep(data=hashes)

    def search(self, task: str) -> None:
        """Choose each method's learning rate on the task by its AURAC on validation documents."""
        study = self.study
        wanted = [one for one in searches(study, self.path) if one.task == task]
        methods = study.methods_of(task)
        chosen = {m: r[0] for m in methods if len(r := study.rates_of(task, m)) == 1}
        others, edges = study.tasks.keys() - {task}, self.state.get("edges", [])
        edges = [edge for edge in edges if edge.rpartition(" on ")[2] in others]
        if wanted:
            self.train_all(wanted, searching=True)
            fine = converged(wanted, read_state(self.out))
            if not fine:
                raise RecipeError(
                    f"every training of the search on {task} diverged", fix="lower learning_rates"
                )
            done = self.compare(task, fine, "search", study.tasks[task].validation)
            scores, place = done.results.areas, done.folder.relative_to(self.out)
            self.keep(searches={task: place.as_posix()})
            for method in {one.method: None for one in wanted}:
                grid = {
                    one.recipe.learning_rate: scores.get(one.recipe.name)
                    for one in wanted
                    if one.method == method
                }
                chosen[method], at_edge = best_rate(grid, f"{method} on {task}")
                edges += [f"{method} on {task}"] if at_edge else []
                self.say(f"{task}: {method} uses learning rate {chosen[method]:g}")
        for edge in edges:
            logger.warning("the best learning rate of %s is at the end of its grid", edge)
        rates = {method: chosen[study.rates_from(task, method)] for method in methods}
        self.keep(rates={task: rates}, edges=edges)

    def evaluate(self, task: str) -> None:
        """Train every seed at the chosen rates and evaluate all adapters of the task together."""
        every = results_of(self.study, self.path, self.state["rates"])
        wanted = [one for one in every if one.task == task]
        self.train_all(wanted)
        done = self.compare(task, wanted, "results", self.study.tasks[task].test)
        if done.besides:  # the report would be of all that is there
            raise RunFolderError(
                f"the results of {task} hold more than the study asks for: {done.besides}",
                expected="those of this study alone",
                fix=f"ask for all of it in the file, or choose another folder than {self.out}",
            )
        if self.study.drop_weights and done.failures:
            self.say(f"{task}: {len(done.failures)} cells failed, so the weights stay")
        elif self.study.drop_weights:
            tried = [one for one in searches(self.study, self.path) if one.task == task]
            with filelock.FileLock(self.out / f"{STATE_FILE}.lock"):
                fine = converged((*tried, *wanted), self.state)
                for folder in {t.folder for one in fine for t in one.trainings}:
                    remove_weights(self.out / folder, load_adapter(self.out / folder, lazy=True))

    def train_all(self, wanted: Sequence[PlannedAdapter], *, searching: bool = False) -> None:
        """Train what is not there; an adapter that another process trains is waited for.

        A training that diverges stops the study, but for `searching`: another rate is chosen then.
        """
        trainings = {training.folder: training for one in wanted for training in one.trainings}
        left = [one for one in trainings.values() if not self.is_there(one)]
        if left and not self.checked:
            self.check_tasks()
        while left:
            left = [
                one
                for one in left
                if not (self.is_there(one) or self.train_one(one, searching=searching))
            ]
            if left:
                time.sleep(_WAIT)

    def check_tasks(self) -> None:
        """Read all documents before anything is trained, so that a mistake costs no training."""
        for recipe in {one.task: one.recipe for one in results_of(self.study, self.path)}.values():
            for number, document in enumerate(training_documents(recipe), 1):
                render(recipe, document, number)
        for task, plan in self.study.tasks.items():
            searched = any(one.task == task for one in searches(self.study, self.path))
            for documents in (plan.test, *[plan.validation] * searched):
                settings, _ = separated(self.options_of(task, documents))
                base = Lookup().outline(self.study.base, settings.model, elsewhere=False)
                Lookup().build([self.evaluated(task)], settings, base)
        self.checked = True

    def is_there(self, one: Training) -> bool:
        """Whether the adapter is trained.

        Raises:
            RunFolderError: What is there was trained by another recipe.
        """
        folder = self.out / one.folder
        if not folder.is_dir():
            return False
        recorded = (load_adapter(folder, lazy=True).recipe or {}).get("sha256")
        if recorded != one.recipe.sha256:
            raise RunFolderError(
                f"{folder} was trained by another recipe than the study's",
                expected=f"the recipe with the SHA-256 {one.recipe.sha256}",
                fix="choose another --out, or remove that folder",
            )
        return True

    def train_one(self, one: Training, *, searching: bool) -> bool:
        """Train an adapter unless another process does; False: it does."""
        folder = self.out / one.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder.with_name(folder.name + ".lock"), timeout=0):
                if folder.is_dir() or (searching and diverged(one, read_state(self.out))):
                    return True
                self.say(f"{one.task}: training {one.recipe.name}")
                done = train(one.recipe, folder, device=self.device, progress=self.progress)
                name = one.folder.as_posix()
                self.keep(seconds={name: done.seconds}, losses={name: done.losses})
        except filelock.Timeout:
            return False
        except DivergedError as error:
            if not searching:
                raise
            logger.warning("%s; its learning rate is left out", error)
            self.keep(diverged={one.folder.as_posix(): one.recipe.sha256})
        return True

    def compare(
        self, task: str, wanted: Sequence[PlannedAdapter], kind: str, documents: Documents
    ) -> Run:
        """Evaluate the adapters of one task; cells that are there are not computed again."""
        study, plan, final = self.study, self.study.tasks[task], kind == "results"
        groups: dict[str, list[str]] = {}
        for one in wanted:
            groups.setdefault(one.method, []).append(one.recipe.name)
        done = compare(
            [one.checkpoint(self.out) for one in wanted],
            [self.evaluated(task)],
            out=self.out / kind / task,
            truncations={
                one.recipe.name: study.truncation_of(task, one.method, final=final)
                for one in wanted
            },
            **asdict(study.truncation_of(task, None, final=final)),
            groups={m: names for m, names in groups.items() if final and len(names) > 1},
            progress=self.progress,
            **self.options_of(task, documents),
        )
        if plan.drop_documents:
            remove_texts(done.folder)
            write_report(done.folder)
        return done

    def evaluated(self, task: str) -> str:
        """What `aurac.compare` takes as the name of a task."""
        name = self.study.tasks[task].task
        beside = self.path.parent / name
        return str(beside) if beside.suffix in (".yaml", ".yml") else name

    def options_of(self, task: str, documents: Documents) -> dict[str, Any]:
        """What `aurac.compare` is told of a task, the base and the device."""
        options = dict(self.study.tasks[task].options)
        for name, folder in options.get("data", {}).items():
            options["data"] = {**options["data"], name: located_data(folder, self.path.parent)}
        how = {"base": self.study.base, "device": self.device}
        return {**options, **how, "split": documents.split, "limit": documents.limit}


def best_rate(grid: dict[float, float | None], what: str) -> tuple[float, bool]:
    """The learning rate with the highest AURAC, and whether it is at an end of the grid.

    Of equal values the smallest rate is taken.

    `grid` is learning rate → AURAC, None where it could not be evaluated; a RecipeError about
    `what` says that none was.
    """
    known = {rate: value for rate, value in sorted(grid.items()) if value is not None}
    if not known:
        raise RecipeError(
            f"no learning rate of {what} gave an AURAC",
            fix="look at the failures of the search, or lower learning_rates",
        )
    best = max(known, key=known.__getitem__)
    return best, best in (min(grid), max(grid))
