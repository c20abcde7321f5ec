"""`compare`: checkpoints × ranks × tasks → cells, curves and a report in a run folder."""

from __future__ import annotations

import contextlib
import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock

from aurac.curves.question import ALL_PAIRS, Key
from aurac.errors import UsageError
from aurac.records.documents import Documents
from aurac.records.lines import Written
from aurac.records.manifest import Manifest, recipe_groups
from aurac.runs.backend_check import check
from aurac.runs.compute import CellWork, compute
from aurac.runs.describe import manifest_of, with_cells, write_documents
from aurac.runs.fit import fitted
from aurac.runs.inputs import Inputs, load
from aurac.runs.overlap import keep_overlaps, overlaps
from aurac.runs.plan import distinct
from aurac.runs.progress import Bar, Progress
from aurac.runs.ray import Cluster, cluster
from aurac.runs.settings import Settings
from aurac.runs.written import Ask, Wanted, write_instead, written
from aurac.show.report import is_written, write_report
from aurac.show.wording import too_few

if TYPE_CHECKING:
    from aurac.notebook import Run
    from aurac.runs.plan import PlannedCell

logger = logging.getLogger(__name__)


def compare(
    checkpoints: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    *,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Evaluate adapters at every rank on tasks and write curves, AURAC and a report.

    The same call goes on where it stopped, and processes that make the same call share the work.

    Args:
        checkpoints: Folders, files or hub ids of adapters.
        tasks: Bundled ones, names that lm-eval knows, YAML files, or files of examples.
        progress: Show a bar with the time left on standard error.
        options: As `aurac compare --help-all` and `aurac.runs.settings.Settings` explain them.

    Raises:
        AuracError: Any input that cannot be used, before anything is computed; later a run folder
            that takes no more, or a lost device.
    """
    return run(Settings.of(checkpoints, tasks, **options), Bar() if progress else Progress())


_known = inspect.signature(compare).parameters  # with the options by their names it is complete
_options = inspect.signature(Settings).parameters.values()
_each = [*list(_known.values())[:-1], *(p for p in _options if p.name not in _known)]
compare.__signature__ = inspect.Signature(_each)  # type: ignore[attr-defined]


def run(
    settings: Settings,
    progress: Progress | None = None,
    command: str | None = None,
    *,
    report: bool = True,
) -> Run:
    """As `compare`, for settings that are one record; `command` is kept in the run folder."""
    began, progress = time.time(), progress or Progress()
    with progress, _stopped_by_sigterm():
        with load(settings, progress) as inputs, contextlib.ExitStack() as stack:
            folder, lists = inputs.folder, {task.name: task.keys for task in inputs.leaves}
            manifest = manifest_of(inputs, command, began)
            _check_question(inputs, manifest)
            folder.check(manifest, lists)
            shared = overlaps(inputs)
            connected = cache(lambda: stack.enter_context(cluster(inputs)))
            if settings.ray is None and not folder.path.exists():
                inputs.backend.load()  # a base that cannot be used leaves no folder behind
            find = (lambda keys: connected().find(keys)) if settings.ray else None
            cells = inputs.cells(fitted(inputs, find))
            manifest = with_cells(manifest, cells)
            leaves = {task.name: task for task in inputs.leaves}
            folder.record(manifest, lists, lambda name: write_documents(folder.path, leaves[name]))
            keep_overlaps(folder, shared)
            each = distinct(cells)
            _compute(inputs, each, CellWork(folder, progress), connected)
            write_instead(each, folder, progress, _asks(inputs, each, connected))
        progress.step("writing the report")
        entry = manifest.log[-1] | {"seconds": round(time.time() - began, 1)}
        manifest = msgspec.structs.replace(manifest, log=[entry])
        folder.record(manifest)
        from aurac.analysis.frames import answerable
        from aurac.notebook import Run

        def read(held: Manifest) -> Run:
            known = Documents(folder.path)  # another process may have added to them
            return answerable(Run(folder.path, held, folder.cells, known, held.question))

        shown = read(manifest)
        if shown.question.reference != settings.reference:
            logger.warning("%s has no result to compare with", settings.reference)
        if report:
            with FileLock(folder.locks / "report.lock"):
                every = read(Manifest.read(folder.path))
                if every.curves and not is_written(every.analysis, folder.path, every):
                    write_report(every, every.analysis)
        return shown


def _check_question(inputs: Inputs, manifest: Manifest) -> None:
    """Refuse a reference of which there will be no row, and say what examples are too few for."""
    reference = inputs.settings.reference
    if margin := inputs.settings.margin:
        for task in (each for each in inputs.tasks if each.group is None):
            if few := too_few(len(task), margin):
                logger.warning("%s: %s", task.name, few)
    recipes = recipe_groups(manifest.adapters, manifest.question.groups)
    seeds = {name for members in recipes.values() for name in members}
    names = [*recipes, *(a.name for a in manifest.adapters if a.name not in seeds)]
    rows = (f"{name} (" for name in names)
    if reference not in (None, ALL_PAIRS) and not f"{reference} (".startswith(tuple(rows)):
        raise UsageError(f"there is no {reference} to compare with, but {', '.join(names)}")


def _compute(
    inputs: Inputs, cells: Sequence[PlannedCell], work: CellWork, connected: Callable[[], Cluster]
) -> None:
    """Compute what is missing of the cells."""
    left = [len(work.left(cell)) for cell in cells]
    todo = [cell for cell, count in zip(cells, left, strict=True) if count]
    todo.sort(key=lambda cell: work.before[cell.key])  # one that ends the engine comes last
    if todo:
        check(inputs, todo, work.progress)
        work.progress.plan(cells, left)
        if inputs.settings.ray is None:
            compute(todo, inputs.backend, work)
        else:
            connected().compute(todo, work)
    for cell in cells:
        work.aggregate(cell)  # of examples that were there before it may not be known yet


def _asks(inputs: Inputs, cells: Sequence[PlannedCell], connected: Callable[[], Cluster]) -> Ask:
    """Who generates texts: the backend, or a worker of the cluster."""
    if inputs.settings.ray:
        return lambda cell, wanted: connected().write(cell, wanted)
    backend, cuts = inputs.backend, [cell.cut for cell in cells if cell.cut]

    def ask(cell: PlannedCell, wanted: Wanted) -> Written:
        backend.begin(cuts, logprobs=False)  # where nothing was left to compute, it has not begun
        return written(cell, wanted, backend)

    return ask


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


def dry_run(settings: Settings) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and the cells of a run, each once; nothing is computed or written.

    Of rescale `fit` those that need factors count as missing.
    """
    inputs = load(settings)
    folder, rows = inputs.folder, []
    for cell in distinct(inputs.cells()):
        left = len(folder.cells.scores(cell.key).missing(cell.task.keys))
        row = cell.curve_key._asdict() if cell.curve_key else dict.fromkeys(Key._fields)
        counts = {"rank": cell.rank, "examples": len(cell.task), "missing": left}
        rows.append({"task": cell.task.name, **row, **counts})
    return folder.path, rows
