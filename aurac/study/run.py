"""Runs a study: search, trainings, evaluations; whatever is there already is not done again."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import filelock
import msgspec

from aurac.adapters import load_adapter
from aurac.adapters.formats.peft import remove_weights
from aurac.errors import DivergedError, RecipeError, RunFolderError
from aurac.files import sha256_file, write_atomic, write_json
from aurac.models.device import versions
from aurac.records.store import cannot_write
from aurac.runs.compare import compare
from aurac.runs.fit import held_out_pairs
from aurac.runs.folder import remove_texts
from aurac.runs.session import Lookup
from aurac.runs.settings import ModelOptions, separated
from aurac.show import write_report
from aurac.study.plan import (
    STATE_FILE,
    STATE_SCHEMA,
    converged,
    declared_in,
    diverged,
    is_trained,
    rates_in,
    read_state,
    unpack_adapters,
)
from aurac.study.trainings import PlannedAdapter, Training, results_of, searches
from aurac.training.data import located_data, render, training_documents, training_file
from aurac.training.job import build_model, train
from aurac.training.trainer import discard, newest_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aurac.models.base import LoadedBase
    from aurac.notebook.run import Run
    from aurac.study.design import Documents, Study
    from aurac.study.plan import State
    from aurac.tasks.task import BuiltTask
    from aurac.training.recipe import Recipe

logger = logging.getLogger(__name__)

_IGNORED = "*.lock\n*.training/\n.*.tmp/\nlocks/\nlogs/\n/check/\n"
_AT_EDGE = "the best learning rate of %s on %s is at the end of its grid"
_SAVE_STEPS = 50  # optimizer steps between the checkpoints of a training
_WAIT = 2.0  # seconds between looks at a training that another process does


def run_study(
    study: Study,
    path: Path,
    out: Path,
    *,
    device: str | None = None,
    retry_failed: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
) -> State:
    """Search learning rates, train, evaluate; returns the content of `study.json`.

    Several processes may run the same study in the same folder: each adapter is trained by one of
    them, and the cells of an evaluation are shared.

    Args:
        study: What is done.
        path: Its file.
        out: Folder of adapters, evaluations and results; an interrupted study goes on.
        device: As `aurac.models.device.pick_device`.
        retry_failed: Try cells again that failed before.
        progress: Show progress bars.
        say: Takes a line for each step.

    Raises:
        AuracError: A recipe, data or a task that cannot be used; adapters of other recipes or data
            in the folder; a cell of the search that failed.
    """
    how = {"progress": progress, "retry_failed": retry_failed}
    runner = StudyRunner(study, path, out, device, say, **how)
    runner.check_data()
    if declared := declared_in(study, runner.state):
        runner.keep(primary=msgspec.to_builtins(declared))
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
        **how: bool,
    ) -> None:
        self.study, self.path, self.out, self.device = study, path, out, device
        self.say, self.how = say, how
        self.state, self.checked = read_state(out), False
        self.rates: dict[str, dict[str, float]] = {}
        try:
            out.mkdir(parents=True, exist_ok=True)
            if not (out / ".gitignore").exists():
                write_atomic(out / ".gitignore", _IGNORED)
            unpack_adapters(out)
        except OSError as error:
            raise cannot_write(out, error) from error

    def keep(self, **values: dict[str, Any]) -> None:
        """Merge values into `study.json`, which other processes may have changed."""
        with filelock.FileLock(self.out / f"{STATE_FILE}.lock"):
            known: dict[str, Any] = {**read_state(self.out), "schema": STATE_SCHEMA}
            known = _merged(known, values)
            known |= {"study": msgspec.to_builtins(self.study), "versions": versions()}
            write_json(self.out / STATE_FILE, known)
            self.state = read_state(self.out)

    def recipes(self) -> list[Recipe]:
        """One of each way of training, at some rate and seed."""
        found = {(one.task, one.method): one.recipe for one in results_of(self.study, self.path)}
        return list(found.values())

    def check_data(self) -> dict[str, str]:
        """Hash the local training data: data, as recipes name them → SHA-256.

        Raises:
            DataError: They are not there.
            RunFolderError: They have changed since an adapter that is there was trained on them.
        """
        local = {r.data: r for r in self.recipes() if r.data and not r.data.startswith("hub:")}
        hashes = {data: sha256_file(training_file(recipe)) for data, recipe in local.items()}
        rates = rates_in(self.study, self.state)
        every = [*searches(self.study, self.path), *results_of(self.study, self.path, rates)]
        there = [t for one in every for t in one.trainings if (self.out / t.folder).is_dir()]
        for data, digest in self.state.get("data", {}).items():
            used = [one.folder for one in there if one.recipe.data == data]
            if used and hashes.get(data, digest) != digest:
                raise RunFolderError(
                    f"the training data {data} have changed since {self.out / used[0]} was trained",
                    expected=f"data with the SHA-256 {digest}",
                    fix="restore the data or choose another --out",
                )
        return hashes

    def search(self, task: str) -> None:
        """Choose each method's learning rate on the task by its AURAC on validation documents."""
        study = self.study
        wanted = [one for one in searches(study, self.path) if one.task == task]
        methods = study.methods_of(task)
        chosen = {m: r[0] for m in methods if len(r := study.rates_of(task, m)) == 1}
        edges = dict.fromkeys(methods, False)
        if wanted:
            self.train_all(wanted, searching=True)
            fine = converged(wanted, read_state(self.out))
            if not fine:
                raise RecipeError(
                    f"every training of the search on {task} diverged", fix="lower learning_rates"
                )
            done = self.compare(task, fine, "search")
            if done.failures:
                raise RunFolderError(
                    f"{len(done.failures)} cells of the search on {task} failed "
                    f"({done.failures[0].reason})",
                    expected="an AURAC of every learning rate",
                    fix="remove the cause, and give --retry-failed",
                )
            for method in {one.method: None for one in wanted}:
                grid = {
                    one.recipe.learning_rate: done.results.areas.get(one.recipe.name)
                    for one in wanted
                    if one.method == method
                }
                chosen[method], edges[method] = best_rate(grid, f"{method} on {task}")
                self.say(f"{task}: {method} uses learning rate {chosen[method]:g}")
                if edges[method]:
                    logger.warning(_AT_EDGE, method, task)
        self.rates[task] = {method: chosen[study.rates_from(task, method)] for method in methods}
        self.keep(rates={task: self.rates[task]}, edges={task: edges})

    def evaluate(self, task: str) -> None:
        """Train every seed at the chosen rates and evaluate all adapters of the task together."""
        every = results_of(self.study, self.path, self.rates)
        wanted = [one for one in every if one.task == task]
        self.train_all(wanted)
        done = self.compare(task, wanted, "results")
        if done.failures:
            self.say(
                f"{task}: {len(done.failures)} cells failed ({done.failures[0].reason}); "
                "--retry-failed tries them again"
            )
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
        if searching:
            trainings = self.converging(wanted)
        left, waiting = [one for one in trainings.values() if not is_trained(one, self.out)], False
        if left and not self.checked:
            self.check_tasks()
        while left:
            before, left = left, []
            for one in before:
                if searching and one.folder not in self.converging(wanted):
                    continue  # a family without one of its adapters is no use
                if not (is_trained(one, self.out) or self.train_one(one, searching=searching)):
                    left.append(one)
            if left and not waiting:
                self.say(f"waiting for another process, which trains {left[0].recipe.name}")
            if waiting := bool(left):
                time.sleep(_WAIT)

    def converging(self, wanted: Sequence[PlannedAdapter]) -> dict[Path, Training]:
        """The trainings of what has not diverged, by folder."""
        fine = converged(wanted, self.state)
        return {training.folder: training for one in fine for training in one.trainings}

    def check_tasks(self) -> None:
        """Read all documents before anything is trained, so that a mistake costs no training.

        Raises:
            AuracError: Data or a task that cannot be used.
        """
        texts = ("task", "data", "documents", "prompt", "prompt_without", "target")
        different = {tuple(getattr(r, name) for name in texts): r for r in self.recipes()}
        for recipe in different.values():
            for number, document in enumerate(training_documents(recipe), 1):
                render(recipe, document, number)
        for recipe in {recipe.target_modules: recipe for recipe in self.recipes()}.values():
            build_model(recipe, self._base(ModelOptions()))[1].remove()
        names: dict[str, str] = {}
        for task in self.study.tasks:
            tested = self._built(task, "results")
            other = names.setdefault(tested[-1].name, task)
            if other != task:
                raise RecipeError(
                    f"{self.path}: {other} and {task} are both {tested[-1].name} for lm-eval",
                    expected="each task once",
                    fix="give the task of one YAML file another name",
                )
            if any(one.task == task for one in searches(self.study, self.path)):
                seen = {digest for each in tested for digest in each.doc_hashes}
                if seen >= {d for each in self._built(task, "search") for d in each.doc_hashes}:
                    raise RecipeError(
                        f"{self.path}: {task} chooses learning rates on its test documents",
                        expected="documents of another split",
                        fix="name the split in `validation` or `test`, or give each method one "
                        "learning rate",
                    )
        self.keep(data=self.check_data())
        self.checked = True

    def _built(self, task: str, kind: str) -> list[BuiltTask]:
        """The tasks of lm-eval; rescale `fit` must have documents to fit on."""
        study = self.study
        cuts = [study.truncation_of(task, m, final=True).rescale for m in study.methods_of(task)]
        fits = kind == "results" and any("fit" in (each or ()) for each in cuts)
        options = self.options_of(task, study.tasks[task].documents(kind))
        settings, _ = separated({**options, **({"rescale": ["fit"]} if fits else {})})
        built = Lookup().build([self.evaluated(task)], settings, self._base(settings.model))
        for each in built if fits else ():
            held_out_pairs(each)
        return built

    def _base(self, options: ModelOptions) -> LoadedBase:
        """The base without its weights."""
        return Lookup().outline(self.study.base, options, elsewhere=False)

    def train_one(self, one: Training, *, searching: bool) -> bool:
        """Train an adapter unless another process does; False: it does."""
        folder = self.out / one.folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder.with_name(folder.name + ".lock"), timeout=0):
                if folder.is_dir() or (searching and diverged(one, read_state(self.out))):
                    return True
                self.say(f"{one.task}: training {one.recipe.name}")
                how: dict[str, Any] = {"progress": self.how["progress"], "save_steps": _SAVE_STEPS}
                how |= {"resume": newest_checkpoint(folder) is not None}
                done = train(one.recipe, folder, device=self.device, **how)
                name = one.folder.as_posix()
                self.keep(seconds={name: done.seconds}, losses={name: done.losses})
        except filelock.Timeout:
            return False
        except DivergedError as error:
            if not searching:
                raise
            logger.warning("%s; its learning rate is left out", error)
            discard(folder, whole=True)
            self.keep(diverged={one.folder.as_posix(): one.recipe.sha256})
        return True

    def compare(self, task: str, wanted: Sequence[PlannedAdapter], kind: str) -> Run:
        """Evaluate the adapters of one task; cells that are there are not computed again.

        Where the folder holds more than that, such as another choice of rates, what is asked for
        has results of its own.
        """
        study, plan, final = self.study, self.study.tasks[task], kind == "results"
        groups: dict[str, list[str]] = {}
        for one in wanted:
            groups.setdefault(one.method, []).append(one.recipe.name)
        folder = self.out / kind / task
        try:
            done = compare(
                [one.checkpoint(self.out) for one in wanted],
                [self.evaluated(task)],
                out=folder,
                truncations={
                    one.recipe.name: study.truncation_of(task, one.method, final=final)
                    for one in wanted
                },
                **asdict(study.truncation_of(task, None, final=final)),
                groups={m: names for m, names in groups.items() if final and len(names) > 1},
                **{**self.options_of(task, plan.documents(kind)), **self.how},
            )
        finally:
            if plan.drop_documents:
                remove_texts(folder)
        if plan.drop_documents:
            remove_texts(done.folder)
            write_report(done.folder)
        place = {task: done.folder.relative_to(self.out).as_posix()}
        self.keep(**{"results" if final else "searches": place})
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


def _merged(known: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`known` with `values`; what both hold as mappings is merged in the same way."""
    merged = dict(known)
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(known.get(name), dict)
        merged[name] = _merged(known[name], value) if both else value
    return merged


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
