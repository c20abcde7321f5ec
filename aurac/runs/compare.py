"""`compare`: checkpoints × ranks × tasks → cells, curves and a report in a run folder."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.adapters import Family
from aurac.files import sha256_json, sweep_scraps, write_json
from aurac.models.device import in_use, machine, versions
from aurac.records.cells import CellStore, cannot_write
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo
from aurac.records.run import StoredRun, assembled, data_order
from aurac.runs.compute import Work
from aurac.runs.compute import compute as compute_here
from aurac.runs.fit import fitted
from aurac.runs.folder import (
    RESULTS_FILE,
    RESULTS_SCHEMA,
    Locks,
    check_folder,
    default_folder,
    known_names,
    record,
    write_documents,
)
from aurac.runs.inputs import Inputs, load_inputs
from aurac.runs.plan import Cell, Way, distinct, plan, ways_of
from aurac.runs.progress import Bar, Progress
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from aurac.notebook.run import Run
    from aurac.tasks.evaltask import EvalTask

ENGINE_VERSION = 7  # raise when the engine changes in a way that can change a number


def compare(
    checkpoints: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    *,
    limit: float | None = None,
    metric: str | Mapping[str, str] | None = None,
    data: str | Path | Mapping[str, str | Path] | None = None,
    include_path: str | Path | None = None,
    base: str | None = None,
    group: Mapping[str, Sequence[str]] | None = None,
    cluster: Mapping[str, str] | None = None,
    reference: str | None = None,
    margin: float | None = None,
    num_fewshot: int | None = None,
    fewshot: str = "stock",
    apply_chat_template: bool = False,
    tokenizer: str | None = None,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool | None = None,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    seed: int = 1234,
    ranks: str | int | Sequence[int] = "pow2",
    basis: str | Sequence[str] = (),
    rescale: str | Sequence[str] = (),
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | str | None = None,
    max_length: int | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    out: str | Path | None = None,
    ray: str | None = None,
    model: str = "hf",
    model_args: str | Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Run:
    """Evaluate adapters at every rank on tasks and write curves, AURAC and a report.

    `checkpoints` are folders, files or hub ids of adapters, `tasks` names that lm-eval knows or
    bundled ones. The options are those of `aurac compare`, see `aurac.runs.settings.Settings`;
    `progress` shows a bar with the time left on standard error. The same call goes on where it
    stopped, and processes that make the same call share the work.

    Raises:
        AuracError: Any input that cannot be used, before anything is computed; later a run folder
            that takes no more, or a lost device.
    """
    words = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    settings = Settings.of(checkpoints, tasks, **words)
    stored = run(settings, progress=progress)
    from aurac.notebook.run import Run

    return Run(stored, question_of(settings, stored))


_NO_SETTINGS = ("checkpoints", "tasks", "progress")


def run(settings: Settings, *, progress: bool = False, command: str | None = None) -> StoredRun:
    """As `compare`, for settings that are one record; `command` is kept in the run folder."""
    started = time.time()
    session = open_session(settings)
    folder, adapters = session.folder, session.inputs.adapters
    check_folder(folder, session.identity, {name: a.sha256 for name, a in adapters.items()})
    if settings.ray is None and session.ways and not folder.exists():
        session.backend()  # a base that cannot be used leaves no folder behind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_scraps(folder)
        store, locks = CellStore(folder), Locks(folder)
        with _stopped_by_sigterm(), _closing(session):
            ways = session.fitted()
            cells = plan(ways, session.inputs.tasks, session.digest)
            manifest = session.manifest(ways, cells, command, started)
            record(folder, manifest)
            work = Work(store, locks)
            _compute(session, distinct(cells), work, progress=progress)
        provenance = {**manifest.provenance, "seconds": round(time.time() - started, 1)}
        manifest = msgspec.structs.replace(manifest, provenance=provenance)
        record(folder, manifest)
        if not any(work.left(cell) for cell in cells):
            locks.remove()
        stored = assembled(folder, manifest, store)
        write_results(stored)
        if stored.curves:
            write_report(stored, settings)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return stored


def write_report(stored: StoredRun, settings: Settings) -> None:
    """The report of what was asked, in the run folder."""
    from aurac import show
    from aurac.analysis import analyse

    show.write_report(stored, analyse(stored.curves, question_of(settings, stored)))


def question_of(settings: Settings, stored: StoredRun) -> Any:
    """What is asked of the results."""
    from aurac.analysis import Question

    return Question(
        margin=settings.margin, reference=settings.reference, groups=dict(stored.groups)
    )


def open_session(settings: Settings) -> Session:
    """Read the inputs; adapters have the names that the run folder has given them."""
    return Session(load_inputs(settings, known_names(settings.out)))


@dataclass(eq=False)
class Session:
    """The inputs of a run with what follows from them."""

    inputs: Inputs

    @property
    def settings(self) -> Settings:
        """What was asked for."""
        return self.inputs.settings

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What may not change within a run folder; adapters, ranks, tasks and examples may grow."""
        given, base = self.settings, self.inputs.base
        return {
            "base_sha256": base.sha256,
            "dtype": base.dtype,
            "device_kind": self.device_kind,
            "backend": f"aurac {ENGINE_VERSION}" if given.model == "hf" else given.model,
            "lm_eval": version("lm_eval"),
            "tokenizer": self.inputs.tokenizer.sha256,
            "max_length": given.max_length,
            "num_fewshot": given.num_fewshot,
            "fewshot": given.fewshot,
            "seed": given.seed,
            "chat_template": given.apply_chat_template,
            "system_instruction": given.system_instruction,
            "fewshot_as_multiturn": given.fewshot_as_multiturn,
            "gen_kwargs": dict(given.gen_kwargs) or None,
        }

    @cached_property
    def digest(self) -> str:
        """Hash of the identity."""
        return sha256_json(self.identity)

    @property
    def device_kind(self) -> str:
        """`cpu`, `cuda` or `mps`."""
        return self.inputs.base.device.split(":")[0]

    @cached_property
    def folder(self) -> Path:
        """The run folder."""
        adapters = [adapter.sha256 for adapter in self.inputs.adapters.values()]
        given = self.settings
        return Path(given.out or default_folder(given.tasks, self.identity, adapters))

    @cached_property
    def ways(self) -> list[Way]:
        """The curves of all adapters, one adapter after the other."""
        given = self.settings
        asked = given.ranks, given.basis, given.rescale
        return [w for n, a in self.inputs.adapters.items() for w in ways_of(n, a, *asked)]

    @cached_property
    def leaves(self) -> list[EvalTask]:
        """The tasks that have cells."""
        return [task for task in self.inputs.tasks if not task.members]

    def fitted(self) -> list[Way]:
        """The ways, with the factors of rescale `fit`."""
        return fitted(self.ways, self.leaves, self.backend, self.digest, self.folder / "fit")

    def backend(self) -> Any:
        """Who answers, made the first time."""
        return self._backend

    @cached_property
    def _backend(self) -> Any:
        from aurac.engine import EngineOptions
        from aurac.engine.backend import LocalBackend

        given = self.settings
        options = EngineOptions(batch_size=given.batch_size, max_length=given.max_length)
        return LocalBackend(self.inputs.load(), options)

    def manifest(
        self, ways: Sequence[Way], cells: Sequence[Cell], command: str | None, started: float
    ) -> Manifest:
        """What this command adds to `run.json`; questions and prompts are written beside it."""
        given, base, tasks = self.settings, self.inputs.base, self.inputs.tasks
        infos = [task_info(self.folder, task) for task in tasks]
        keys: dict[Way | None, dict[str, dict[int, str]]] = {}
        for cell in cells:
            keys.setdefault(cell.way, {}).setdefault(cell.task.name, {})[cell.rank] = cell.key
        examples = {task.name: len(task) for task in self.leaves}
        provenance = {
            "command": command,
            "started": dt.datetime.fromtimestamp(started, dt.timezone.utc).isoformat(
                timespec="seconds"
            ),
            "versions": versions(),
            "machine": {**machine(), **in_use(base.device)} if not given.ray else machine(),
            "device": base.device,
            "dtype": base.dtype,
            "base": base.name,
            "base_sha256": base.sha256,
            "backend": self.identity["backend"],
        }
        return Manifest(
            settings=self.identity,
            provenance=provenance,
            adapters=[adapter_info(name, ways) for name in self.inputs.adapters],
            tasks=infos,
            asked=[task.name for task in tasks if task.group is None],
            cuts=[_cut_info(way, keys[way], examples) for way in ways],
            base={task: ranks[0] for task, ranks in keys[None].items()},
            groups={recipe: list(members) for recipe, members in given.group.items()},
        )


def _cut_info(way: Way, cells: dict[str, dict[int, str]], examples: dict[str, int]) -> CutInfo:
    ordered = {task: dict(sorted(keys.items())) for task, keys in cells.items()}
    return CutInfo(
        adapter=way.name,
        basis=way.basis,
        rescale=way.rescale,
        factors=dict(way.factors),
        examples={task: examples[task] for task in ordered},
        cells=ordered,
    )


def adapter_info(name: str, ways: Sequence[Way]) -> AdapterInfo:
    """What readers need of an adapter."""
    own = [way for way in ways if way.name == name]
    adapter, ranks = own[0].adapter, sorted({rank for way in own for rank in way.ranks})
    recipe = dict(adapter.recipe) if adapter.recipe else None
    return AdapterInfo(
        name=name,
        path=_shown_path(adapter.source),
        format="family" if isinstance(adapter, Family) else adapter.format,
        sha256=adapter.sha256,
        method=adapter.method,
        base=adapter.base,
        seed=adapter.seed,
        data_order=data_order(recipe),  # type: ignore[arg-type]
        trained_rank=adapter.rank,
        sizes={rank: adapter.bytes(rank) for rank in ranks},
        parameters=adapter.parameters(adapter.rank),
        recipe=recipe,
        notes=tuple(adapter.notes),
    )


def task_info(folder: Path, task: EvalTask) -> TaskInfo:
    """What readers need of a task; its questions and prompts are written into the run folder."""
    documents, requests = (None, None) if task.members else write_documents(folder, task)
    return TaskInfo(
        name=task.name,
        metric=task.metric,
        metrics=tuple(task.usable),
        examples=len(task),
        version=task.version,
        num_fewshot=task.num_fewshot,
        members=tuple(member.name for member in task.members),
        rolling=task.rolling,
        higher_is_better=task.higher_is_better,
        cluster=task.cluster,
        documents=documents,
        requests=requests,
    )


def _shown_path(source: Path | None) -> str | None:
    """Relative where it lies below the working folder, so that results can be shared."""
    if source is None:
        return None
    place, here = source.resolve(), Path.cwd()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(source)


def _compute(session: Session, cells: Sequence[Cell], work: Work, *, progress: bool) -> None:
    """Compute what is missing of the cells."""
    left = [len(work.left(cell)) for cell in cells]
    todo = [cell for cell, count in zip(cells, left, strict=True) if count]
    if not todo:
        return
    with Bar(cells, left) if progress else Progress() as work.progress:
        if session.settings.ray is None:
            compute_here(todo, session.backend(), work, session.device_kind)
        else:
            from aurac.runs.ray import compute_on_ray

            compute_on_ray(session, todo, work)


def write_results(stored: StoredRun) -> None:
    """`results.json`: for programs that want accuracies without reading cells."""
    curves = [
        {
            "task": curve.task,
            "adapter": curve.adapter,
            "basis": curve.basis,
            "rescale": curve.rescale,
            "metric": curve.metric,
            "examples": curve.n_docs,
            "base": curve.baseline,
            "ranks": list(curve.ranks),
            "accuracy": list(curve.accuracy),
            "missing": dict(curve.missing),
        }
        for curve in stored.curves
    ]
    adapters = [
        {name: value for name, value in adapter.to_dict().items() if name != "recipe"}
        for adapter in stored.adapters
    ]
    content = {
        "schema": RESULTS_SCHEMA,
        "adapters": adapters,
        "tasks": [task.to_dict() for task in stored.tasks],
        "curves": curves,
        "failures": [dict(vars(failure)) for failure in stored.failures],
    }
    write_json(stored.folder / RESULTS_FILE, content)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """A batch system's signal ends the run as Ctrl-C does, between two blocks or within one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _closing(session: Session) -> Iterator[None]:
    """Put the base's own modules back at the end."""
    try:
        yield
    finally:
        if "_backend" in vars(session):
            session.backend().__exit__(None, None, None)


@dataclass(frozen=True)
class DryRun:
    """What `compare` would do.

    Attributes:
        folder: The run folder.
        cells: All cells, each once: (task, adapter or None for the base, basis, rescale, rank, how
            many examples are asked for, how many are missing).
    """

    folder: Path
    cells: tuple[tuple[str, str | None, str | None, str | None, int, int, int], ...]


def dry_run(settings: Settings) -> DryRun:
    """The cells of a run; nothing is computed or written.

    Of rescale `fit` those that need factors count as missing.
    """
    session = open_session(settings)
    work = CellStore(session.folder)
    rows = []
    for cell in distinct(plan(session.ways, session.inputs.tasks, session.digest)):
        left = len(work.scores(cell.key).missing(cell.documents))
        way = cell.way
        named = (way.name, way.basis, way.rescale) if way else (None, None, None)
        rows.append((cell.task.name, *named, cell.rank, len(cell.task), left))
    return DryRun(session.folder, tuple(rows))
