"""Runs a study: search, trainings, evaluations; whatever is there already is not done again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import filelock
import msgspec
from typing_extensions import Unpack

from aurac.adapters import load_adapter
from aurac.adapters.formats.storage import remove_weights
from aurac.errors import DivergedError, RecipeError, RunFolderError
from aurac.files import sha256_file, write_atomic
from aurac.models.base import LoadedBase
from aurac.models.device import versions
from aurac.notebook import Run
from aurac.records.results_file import STATE_FILE
from aurac.records.store import cannot_write
from aurac.runs.compare import compare
from aurac.runs.fit import held_out_pairs
from aurac.runs.folder import remove_texts
from aurac.runs.session import Lookup
from aurac.runs.settings import ModelOptions, RequestOptions, separated
from aurac.show import write_report
from aurac.study.design import Documents, PlannedAdapter, Study, results_of, searches, trainings_of
from aurac.study.plan import (
    State,
    check_tasks,
    converged,
    declared_in,
    is_trained,
    rates_in,
    read_state,
    unpack_adapters,
    update_state,
)
from aurac.tasks.task import BuiltTask
from aurac.training.data import located_data, render, training_documents, training_file
from aurac.training.job import build_model, train
from aurac.training.recipe import Recipe
from aurac.training.trainer import discard, newest_checkpoint

logger = logging.getLogger(__name__)

_IGNORED = "*.lock\n*.training/\n.*.tmp/\nlocks/\nlogs/\n/check/\n"
_SAVE_STEPS = 50  # optimizer steps between the checkpoints of a training


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
    check_tasks(study, path)
    runner = StudyRunner(study, path, out, device, say, progress, retry_failed)
    runner.check_data()
    if declared := declared_in(study, runner.state):
        runner.keep(primary=msgspec.to_builtins(declared))
    for task in study.tasks:
        runner.search(task)
    for task in study.tasks:
        runner.evaluate(task)
    return runner.state


@dataclass
class StudyRunner:
    """Trains and evaluates what is not there yet in the folder of a study, see `run_study`."""

    study: Study
    path: Path
    out: Path
    device: str | None
    say: Callable[[str], None]
    progress: bool = False
    retry_failed: bool = False
    rates: dict[str, dict[str, float]] = field(init=False, default_factory=dict)
    checked: bool = field(init=False, default=False)  # whether all tasks can be used

    def __post_init__(self) -> None:
        self.state = read_state(self.out)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if not (self.out / ".gitignore").exists():
                write_atomic(self.out / ".gitignore", _IGNORED)
        except OSError as error:
            raise cannot_write(self.out, error) from error
        unpack_adapters(self.out)

    def keep(self, **values: Unpack[State]) -> None:
        """Merge values into `study.json`, which other processes may have changed."""
        self.state = update_state(self.out, values, self.study, versions=versions())

    def recipes(self) -> list[Recipe]:
        """One of each way of training, at some rate and seed."""
        every = results_of(self.study, self.path)
        return list({(adapter.task, adapter.method): adapter.recipe for adapter in every}.values())

    def check_data(self) -> dict[str, str]:
        """Hash the local training data: data, as recipes name them → SHA-256.

        Raises:
            DataError: They are not there.
            RunFolderError: They have changed since an adapter that is there was trained on them.
        """
        local = {r.data: r for r in self.recipes() if r.data and not r.data.startswith("hub:")}
        hashes = {data: sha256_file(training_file(recipe)) for data, recipe in local.items()}
        rates, known = rates_in(self.study, self.state), self.state.get("data", {})
        every = [*searches(self.study, self.path), *results_of(self.study, self.path, rates)]
        for folder, recipe in trainings_of(every).items():
            digest = known.get(recipe.data)
            changed = digest and hashes.get(recipe.data, digest) != digest
            if changed and (self.out / folder).is_dir():
                raise RunFolderError(
                    f"the training data {recipe.data} have changed since {self.out / folder} was "
                    "trained",
                    expected=f"data with the SHA-256 {digest}",
                    fix="restore the data or choose another --out",
                )
        return hashes

    def search(self, task: str) -> None:
        """Choose each method's learning rate on the task by its AURAC on validation documents."""
        study, methods = self.study, self.study.methods_of(task)
        wanted = [adapter for adapter in searches(study, self.path) if adapter.task == task]
        chosen = {m: r[0] for m in methods if len(r := study.rates_of(task, m)) == 1}
        edges = dict.fromkeys(methods, False)
        areas = self._searched(task, wanted) if wanted else {}
        for method in dict.fromkeys(adapter.method for adapter in wanted):
            own = [adapter.recipe for adapter in wanted if adapter.method == method]
            grid = {recipe.learning_rate: areas.get(recipe.name) for recipe in own}
            chosen[method], edges[method] = best_rate(grid, f"{method} on {task}")
            edge = ", which is at the end of its grid" if edges[method] else ""
            self.say(f"{task}: {method} uses learning rate {chosen[method]:g}{edge}")
        self.rates[task] = {method: chosen[study.rates_from(task, method)] for method in methods}
        self.keep(rates={task: self.rates[task]}, edges={task: edges})

    def _searched(self, task: str, wanted: Sequence[PlannedAdapter]) -> dict[str, float]:
        """Name → AURAC of the adapters of a search that did not diverge."""
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
                f"({done.results.failures[0].reason})",
                expected="an AURAC of every learning rate",
                fix="remove the cause, and give --retry-failed",
            )
        return done.results.areas

    def evaluate(self, task: str) -> None:
        """Train every seed at the chosen rates and evaluate all adapters of the task together."""
        every = results_of(self.study, self.path, self.rates)
        wanted = [adapter for adapter in every if adapter.task == task]
        self.train_all(wanted)
        done = self.compare(task, wanted, "results")
        if done.failures:
            self.say(
                f"{task}: {len(done.failures)} cells failed ({done.results.failures[0].reason}); "
                "--retry-failed tries them again"
            )
        elif self.study.drop_weights:
            tried = [one for one in searches(self.study, self.path) if one.task == task]
            with filelock.FileLock(self.out / f"{STATE_FILE}.lock"):
                for folder in trainings_of(converged((*tried, *wanted), self.state)):
                    remove_weights(self.out / folder, load_adapter(self.out / folder, lazy=True))

    def train_all(self, wanted: Sequence[PlannedAdapter], *, searching: bool = False) -> None:
        """Train what is not there; an adapter that another process trains is waited for.

        A training that diverges stops the study, but for `searching`: another rate is chosen then,
        and the rest of its family is not trained.
        """
        every = converged(wanted, self.state) if searching else wanted
        trainings = trainings_of(every).items()
        left = [name for name, recipe in trainings if not is_trained(self.out / name, recipe)]
        if left and not self.checked:
            self.check_tasks()
        busy = [name for name in left if not self.train_one(name, wanted, searching=searching)]
        for name in busy:
            self.say(f"waiting for another process, which trains {Path(name).name}")
            self.train_one(name, wanted, searching=searching, timeout=-1)

    def train_one(
        self, name: str, wanted: Sequence[PlannedAdapter], *, searching: bool, timeout: float = 0
    ) -> bool:
        """Train the adapter of a folder; False where another process does, after the timeout."""
        folder, recipe = self.out / name, trainings_of(wanted)[name]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder.with_name(folder.name + ".lock"), timeout=timeout):
                fine = converged(wanted, read_state(self.out)) if searching else wanted
                if is_trained(folder, recipe) or name not in trainings_of(fine):
                    return True
                self.say(f"{folder.parent.name}: training {recipe.name}")
                done = train(
                    recipe,
                    folder,
                    device=self.device,
                    progress=self.progress,
                    save_steps=_SAVE_STEPS,
                    resume=newest_checkpoint(folder) is not None,
                )
                self.keep(seconds={name: done.seconds}, losses={name: list(done.losses)})
        except filelock.Timeout:
            return False
        except DivergedError as error:
            if not searching:
                raise
            logger.warning("%s; its learning rate is left out", error)
            discard(folder, whole=True)
            self.keep(diverged={name: recipe.sha256})
        return True

    def check_tasks(self) -> None:
        """Read all documents before anything is trained, so that a mistake costs no training.

        Raises:
            AuracError: Data or a task that cannot be used.
        """
        texts = ("task", "data", "documents", "prompt", "prompt_without", "target")
        recipes = self.recipes()
        for recipe in {tuple(getattr(r, name) for name in texts): r for r in recipes}.values():
            for number, document in enumerate(training_documents(recipe), 1):
                render(recipe, document, number)
        for recipe in {recipe.target_modules: recipe for recipe in recipes}.values():
            build_model(recipe, self._base(ModelOptions()))[1].remove()
        names: dict[str, str] = {}
        for task in self.study.tasks:
            tested = self._built(task, "results")
            other = names.setdefault(tested[-1].name, task)
            if other != task:
                raise RecipeError(
                    f"{self.path}: {other} and {task} are both {tested[-1].name} for lm-eval",
                    expected="each task once",
                    fix="give the task of one YAML file another name; another way of training, "
                    "such as more steps, is a method of its own",
                )
            if any(adapter.task == task for adapter in searches(self.study, self.path)):
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
        settings, _ = separated({**options, "rescale": ["fit"]} if fits else options)
        names = [study.tasks[task].evaluated(self.path)]
        built = Lookup().build(names, settings, self._base(settings.model))
        for each in built if fits else ():
            held_out_pairs(each)
        return built

    def _base(self, options: ModelOptions) -> LoadedBase:
        """The base without its weights."""
        return Lookup().outline(self.study.base, options, elsewhere=False)

    def compare(self, task: str, wanted: Sequence[PlannedAdapter], kind: str) -> Run:
        """Evaluate the adapters of one task; cells that are there are not computed again.

        Where the folder holds more than that, such as another choice of rates, what is asked for
        has results of its own.
        """
        study, plan, final = self.study, self.study.tasks[task], kind == "results"
        groups: dict[str, list[str]] = {}
        for adapter in wanted:
            groups.setdefault(adapter.method, []).append(adapter.recipe.name)
        folder, options = self.out / kind / task, self.options_of(task, plan.documents(kind))
        options["truncations"] = {
            adapter.recipe.name: study.truncation_of(task, adapter.method, final=final)
            for adapter in wanted
        }
        options["groups"] = {m: names for m, names in groups.items() if final and len(names) > 1}
        options["retry_failed"] = self.retry_failed
        cut = study.truncation_of(task, None, final=final)
        options["ranks"], options["margin"] = cut.ranks, cut.margin
        options["basis"], options["rescale"] = cut.basis, cut.rescale
        options["published"] = cut.published
        try:
            done = compare(
                [adapter.checkpoint(self.out) for adapter in wanted],
                [plan.evaluated(self.path)],
                out=folder,
                progress=self.progress,
                **options,
            )
        finally:
            if plan.drop_documents:
                remove_texts(folder)
        if plan.drop_documents:
            remove_texts(done.folder)
            write_report(done.folder)
        place = {task: done.folder.relative_to(self.out).as_posix()}
        kept: State = {"results": place} if final else {"searches": place}
        self.keep(**kept)
        return done

    def options_of(self, task: str, documents: Documents) -> RequestOptions:
        """What `aurac.compare` is told of a task, the base and the device."""
        options, beside = self.study.tasks[task].options, self.path.parent
        data = {name: located_data(at, beside) for name, at in options.get("data", {}).items()}
        how = {"base": self.study.base, "device": self.device, "data": data}
        return cast("RequestOptions", {**options, **how, **msgspec.structs.asdict(documents)})


def best_rate(grid: dict[float, float | None], what: str) -> tuple[float, bool]:
    """The learning rate with the highest AURAC, and whether it is at an end of the grid.

    Of equal values the smallest rate is taken. `grid` is learning rate → AURAC, None where it could
    not be evaluated; a RecipeError about `what` says that none was.
    """
    known = {rate: value for rate, value in sorted(grid.items()) if value is not None}
    if not known:
        raise RecipeError(
            f"no learning rate of {what} gave an AURAC",
            fix="look at the failures of the search, or lower learning_rates",
        )
    best = max(known, key=known.__getitem__)
    return best, best in (min(grid), max(grid))
