"""`compare`: checkpoints × ranks × tasks → cells, curves and a report in a run folder."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import UsageError
from aurac.files import sweep_scraps, write_json
from aurac.records.cells import CellStore, writing
from aurac.records.folder import RESULTS_FILE, RESULTS_SCHEMA, Locks, check_folder, record
from aurac.records.run import StoredRun, assembled, recipe_groups
from aurac.runs.compute import Work
from aurac.runs.compute import compute as compute_here
from aurac.runs.manifest import manifest_of
from aurac.runs.plan import Cell, distinct, plan
from aurac.runs.progress import Bar, Progress
from aurac.runs.ray import compute_on_ray
from aurac.runs.session import Session, open_session
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from aurac.notebook import Run
    from aurac.records.manifest import Manifest


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
    from aurac.notebook import Run

    return Run(stored, question_of(settings, stored))


_NO_SETTINGS = ("checkpoints", "tasks", "progress")


def run(settings: Settings, *, progress: bool = False, command: str | None = None) -> StoredRun:
    """As `compare`, for settings that are one record; `command` is kept in the run folder."""
    started = time.time()
    if settings.ray and settings.model != "hf":
        raise UsageError(f"--ray computes with the engine, and not with --model {settings.model}")
    session = open_session(settings)
    folder, adapters = session.folder, session.inputs.adapters
    check_folder(folder, session.identity, {name: a.sha256 for name, a in adapters.items()})
    if settings.ray is None and not folder.exists():
        session.backend()  # a base that cannot be used leaves no folder behind
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _stopped_by_sigterm(), _closing(session):
            ways = session.fitted()
            cells = plan(ways, session.inputs.tasks, session.digest)
            manifest = manifest_of(session, ways, cells, command, started)
            check_reference(settings.reference, manifest)
            record(folder, manifest)
            work = Work(CellStore(folder), Locks(folder))
            sweep_scraps(folder)
            finished = _compute(session, cells, work, progress=progress)
        provenance = {**manifest.provenance, "seconds": round(time.time() - started, 1)}
        manifest = msgspec.structs.replace(manifest, provenance=provenance)
        record(folder, manifest)
        work.locks.remove(finished)
        stored = assembled(folder, manifest, work.store)
        write_results(stored)
        if stored.curves or any(task.rolling for task in stored.tasks):
            write_report(stored, settings)
    return stored


def check_reference(reference: str | None, manifest: Manifest) -> None:
    """Refuse a reference of which there will be no row, before anything is computed."""
    recipes = recipe_groups(manifest.adapters, manifest.groups)
    seeds = {name for members in recipes.values() for name in members}
    names = [*recipes, *(a.name for a in manifest.adapters if a.name not in seeds)]
    if reference is not None and reference.partition(", ")[0] not in names:
        raise UsageError(f"there is no {reference} to compare with, but {', '.join(names)}")


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


def _compute(session: Session, cells: Sequence[Cell], work: Work, *, progress: bool) -> list[str]:
    """Compute what is missing of the cells; the keys of those that are whole then."""
    cells = distinct(cells)
    left = [len(work.left(cell)) for cell in cells]
    todo = [cell for cell, count in zip(cells, left, strict=True) if count]
    if todo:
        session.begin(todo, progress=progress)
        with Bar(cells, left) if progress else Progress() as work.progress:
            if session.settings.ray is None:
                compute_here(todo, session.backend(), work, session.device_kind)
            else:
                compute_on_ray(session, todo, work)
    for cell, count in zip(cells, left, strict=True):
        if not count:
            work.aggregate(cell)  # of fewer examples than before it is not there yet
    return [cell.key for cell in cells if not work.left(cell)]


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
