"""`compare`: checkpoints × ranks × tasks → curves, scores and a report in a run folder."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import UsageError
from aurac.files import link_or_copy, write_json
from aurac.models.device import machine, versions
from aurac.readers.cells import RESULTS_FILE, SCHEMA
from aurac.runs import estimate
from aurac.runs.finished import Request, Witness
from aurac.runs.folder import (
    find_run_folder,
    held_besides,
    open_run_folder,
    recorded_names,
    say_why_unused,
    subset_folder,
)
from aurac.runs.interrupts import Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import Profile, RunLog
from aurac.runs.plan import PlannedCell, Variant, shard_of
from aurac.runs.progress import NoProgress, SweepProgress
from aurac.runs.results import (
    Comparison,
    Point,
    TaskCells,
    adapter_row,
    curve_row,
    engine_row,
    task_row,
)
from aurac.runs.runner import RunContext
from aurac.runs.schema import REPORT_FILE, EngineCounts
from aurac.runs.session import Session, common_base, limit_of, load_adapters, open_session
from aurac.runs.settings import separated
from aurac.runs.status import Standing, add_to_plan
from aurac.runs.store import CellStore, cannot_write
from aurac.runs.workers import Executor, make_executor
from aurac.tasks.files import write_requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aurac.models.base import LoadedBase
    from aurac.runs.settings import Execution, Settings
    from aurac.tasks.task import BuiltTask

__all__ = ["Comparison", "common_base", "compare", "load_adapters"]

logger = logging.getLogger(__name__)

PROFILE_FILE = "profile.json"
_MOST_REPAIRS = 3  # rounds in which damaged cells are computed again


def compare(
    checkpoints: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    out: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
    **options: Any,
) -> Comparison:
    """Evaluate adapters at every rank on tasks and write curves, AURAC and a report.

    Args:
        checkpoints: Folders, files or hub ids of adapters.
        tasks: Names that lm-eval knows, or bundled ones.
        out: Run folder; None: `runs/<tasks>-<hash of the request>`. The same request goes on where
            it stopped, and processes that are given the same request share the work. Adapters,
            tasks and ranks may be added. A request for fewer than the folder holds gets results of
            its own in `<out>/subsets`, and those of the whole stay as they are.
        progress: Show a progress bar with the time left on standard error.
        command: The command line, for the provenance.
        options: Fields of `Settings`, of its parts and of `Execution`.

    Raises:
        AuracError: Any input that cannot be used, before anything is computed; later a run folder
            that takes no more, or a lost device.
        Interrupted: A signal came; the same call goes on.
    """
    if not checkpoints or not tasks:
        raise UsageError("nothing to compare", expected="at least one checkpoint and one task")
    settings, execution = separated(options)
    started, profile = time.time(), Profile()
    executor, elsewhere = make_executor(execution), execution.executor == "ray"
    with Interrupts() as interrupts:
        with profile.spent("build"):
            names = recorded_names(out)
            session = open_session(checkpoints, tasks, settings, names=names, elsewhere=elsewhere)
        request = session.request()
        _, begun = find_run_folder(out, tasks, request, command)
        if not begun and not elsewhere:  # a base that cannot be used leaves no folder behind
            with profile.spent("load"):
                session.base()
        folder = open_run_folder(out, tasks, request, command)
        origin = Request(
            tuple(map(str, checkpoints)),
            tuple(tasks),
            str(out) if out else None,
            settings,
            execution,
        )
        witness = Witness(origin, session.outline.path, started)
        run = _Run(session, execution, executor, folder, interrupts, profile, progress=progress)
        done = run.whole(command, started)
        witness.keep(done, len(session.cells()))
        estimate.remember(session.outline, profile)
        return done


class _Run:
    """One process's part in the run of a folder."""

    def __init__(
        self,
        session: Session,
        execution: Execution,
        executor: Executor,
        folder: Path,
        interrupts: Interrupts,
        profile: Profile,
        *,
        progress: bool,
    ) -> None:
        self.session, self.execution, self.executor = session, execution, executor
        self.folder = folder
        self.interrupts, self.profile, self.progress = interrupts, profile, progress
        self.store, self.log = CellStore(folder), RunLog(folder)

    def whole(self, command: str | None, started: float) -> Comparison:
        """Compute what is missing, gather, write."""
        try:
            with self.log, Locks(self.folder) as locks:
                self.log.event("start", command=command, versions=versions())
                self.store.tidy()
                with self.profile.spent("fit"):
                    self.session.fit(self.folder)
                cells = self.session.cells()
                add_to_plan(self.folder, [cell.row for cell in cells])
                say_why_unused(self.store, [cell.identity for cell in cells])
                if self.execution.retry_failed:
                    for key in self.store.failed_keys():
                        self.store.clear_failure(key)
                done = self._computed(cells, locks, command, started)
                if self.execution.profile:
                    write_json(self.folder / PROFILE_FILE, self.profile.to_dict())
                return done
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _computed(
        self, cells: list[PlannedCell], locks: Locks, command: str | None, started: float
    ) -> Comparison:
        wanted = shard_of(cells, *self.execution.shard) if self.execution.shard else cells
        for _ in range(_MOST_REPAIRS):
            self._compute(wanted, locks)
            if self.execution.shard:
                return self._shard(wanted)
            with self.profile.spent("results"):
                results, incomplete = gathered(self.session, cells, self.store)
            if not incomplete:
                break
            for cell, there in incomplete:
                self.store.recount(cell.identity, there)
        return self._written(results, locks, command, started)

    def _compute(self, wanted: list[PlannedCell], locks: Locks) -> None:
        left = Standing.of((cell.row for cell in wanted), self.store).left
        open_keys = {row.key for row in left}
        todo = [cell for cell in wanted if cell.identity.key in open_keys]
        bar = SweepProgress(todo, total_cells=len(wanted)) if self.progress else NoProgress()
        context = RunContext(
            self.store,
            locks,
            self.interrupts,
            self.log,
            self.profile,
            bar,
            wait_for_device=self.execution.profile,
        )
        with bar:
            if todo:
                self.executor.run(self.session, todo, context)

    def _shard(self, wanted: list[PlannedCell]) -> Comparison:
        records = [(cell, self.store.failure(cell.identity.key)) for cell in wanted]
        failures = [failure_row(cell, record["reason"]) for cell, record in records if record]
        results = {"failures": failures, "cells": len(wanted)}
        return Comparison(self.folder, results, (), shard=self.execution.shard)

    def _written(
        self, results: dict[str, Any], locks: Locks, command: str | None, started: float
    ) -> Comparison:
        """Results and report, by one process at a time."""
        session = self.session
        for row, task in zip(results["tasks"], session.built, strict=True):
            row["documents"] = _write_documents(self.folder, task)
            row["requests"] = write_requests(self.folder, task, session.outline)
        request = session.request()
        results["provenance"] = _provenance(
            session.outline, session.settings, command, started, request
        )
        with _one_at_a_time(locks, "results"):
            besides = held_besides(self.folder, request)
            place = subset_folder(self.folder, request) if besides else self.folder
            if besides:
                for name in _files_of(results):
                    link_or_copy(self.folder / name, place / name)
            (place / REPORT_FILE).unlink(missing_ok=True)  # it tells of other results
            write_json(place / RESULTS_FILE, results)
            from aurac.report import write_report

            with self.profile.spent("report"):
                files = tuple(write_report(place))
            return Comparison(place, results, files, besides=_besides(self.folder, besides))


@contextlib.contextmanager
def _one_at_a_time(locks: Locks, name: str) -> Iterator[None]:
    while not locks.acquire(name):
        time.sleep(0.2)
    try:
        yield
    finally:
        locks.release(name)


def _besides(folder: Path, held: Sequence[str]) -> str:
    if not held:
        return ""
    text = f"{folder} also holds {', '.join(held)}"
    if (folder / RESULTS_FILE).is_file():
        text += f"; {folder / RESULTS_FILE} and the report beside it stay as they are"
    return text


def _files_of(results: Mapping[str, Any]) -> set[str]:
    """The files in the run folder that a `results.json` names."""
    named = [row[kind] for row in results["tasks"] for kind in ("documents", "requests")]
    for curve in results["curves"]:
        named += [curve["baseline_cell"], *curve["cells"].values()]
    lists = [[name] if isinstance(name, str) else name or [] for name in named]
    return {name for names in lists for name in names}


def _write_documents(folder: Path, task: BuiltTask) -> str:
    """Questions and targets beside the cells, so that a report can show examples."""
    from aurac.tasks.files import readable

    path = Path("documents") / f"{task.name.replace('/', '_')}-{task.prompts_sha256[:16]}.json"
    write_json(folder / path, readable(task))
    return path.as_posix()


def gathered(
    session: Session, cells: Sequence[PlannedCell], store: CellStore
) -> tuple[dict[str, Any], list[tuple[PlannedCell, int]]]:
    """The content of `results.json` but for its provenance, and what is missing.

    Each cell is read and verified once.

    Returns:
        The results, and the cells that lack documents with the number that they have.
    """
    from aurac import __version__

    reader = _Reader(cells, store)
    variants = session.variants
    tables = [TaskCells(task, reader.fetch) for task in session.built]
    first = {variant.name: variant for variant in reversed(variants)}
    results = {
        "schema": SCHEMA,
        "aurac": __version__,
        "curves": [
            curve_row(v, cells_of, session.outline.name) for cells_of in tables for v in variants
        ],
        "tasks": [
            task_row(task, limit_of(task.group or task.name, session.settings))
            for task in session.built
        ],
        "adapters": [
            adapter_row(name, first[name]) for name in dict.fromkeys(v.name for v in variants)
        ],
        "groups": {name: list(members) for name, members in session.settings.groups.items()},
        "failures": reader.failures,
        "engine": engine_row(reader.engine),
    }
    return results, reader.incomplete


class _Reader:
    """Reads each cell once, and keeps what curves are made of."""

    def __init__(self, cells: Sequence[PlannedCell], store: CellStore) -> None:
        self._store = store
        self._cells = {
            (cell.variant.label if cell.variant else None, cell.rank, cell.task.name): cell
            for cell in cells
        }
        self._seen: dict[str, Point | str] = {}
        self.failures: list[dict[str, Any]] = []
        self.incomplete: list[tuple[PlannedCell, int]] = []
        self.engine = EngineCounts()

    def fetch(self, variant: Variant | None, rank: int, leaf: BuiltTask) -> Point | str:
        cell = self._cells[variant.label if variant else None, rank, leaf.name]
        key = cell.identity.key
        if key not in self._seen:
            self._seen[key] = self._read(cell)
        return self._seen[key]

    def _read(self, cell: PlannedCell) -> Point | str:
        key = cell.identity.key
        stored = self._store.read(key, cell.documents)
        if stored is not None and not stored.missing:
            self.engine += stored.engine
            path = self._store.path(key).relative_to(self._store.run_folder)
            return Point(stored.metrics, stored.engine, path.as_posix())
        record = self._store.failure(key)
        if record is None:
            self.incomplete.append((cell, len(stored.documents) if stored else 0))
            return "not evaluated"
        self.failures.append(failure_row(cell, str(record["reason"])))
        return str(record["reason"])


def failure_row(cell: PlannedCell, reason: str) -> dict[str, Any]:
    """One element of `failures`."""
    return {
        "adapter": cell.variant.name if cell.variant else None,
        "curve": cell.variant.label if cell.variant else None,
        "task": cell.task.name,
        "rank": cell.rank,
        "reason": reason,
    }


def _provenance(
    base: LoadedBase,
    settings: Settings,
    command: str | None,
    started: float,
    request: dict[str, Any],
) -> dict[str, Any]:
    finished = time.time()
    task, cut = settings.task, settings.truncation

    def stamp(seconds: float) -> str:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.timezone.utc)
        return moment.isoformat(timespec="seconds")

    return {
        "command": command,
        "started": stamp(started),
        "finished": stamp(finished),
        "seconds": round(finished - started, 1),
        "seed": task.seed,
        "dtype": base.dtype,
        "device": base.device,
        "base": {"name": base.name, "sha256": base.sha256},
        "versions": versions(),
        "machine": {**machine(), **_device(base.device)},
        "settings": {
            "ranks": cut.ranks if isinstance(cut.ranks, str) else list(cut.ranks),
            "basis": list(cut.basis),
            "rescale": list(cut.rescale) if cut.rescale else None,
            "num_fewshot": task.num_fewshot,
            "fewshot": task.fewshot,
            "limit": task.limit,
            "split": task.split,
            "chat_template": task.chat_template,
            **task.prompting(),
            "cluster": dict(task.cluster),
            "device_map": settings.model.device_map,
            "data": {name: Path(folder).name for name, folder in task.data.items()},
            "batching": request["settings"]["batching"],
        },
    }


def _device(device: str) -> dict[str, Any]:
    import torch

    described: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if device.startswith("cuda") and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name(device)
    return described
