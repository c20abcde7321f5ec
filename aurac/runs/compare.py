"""`compare`: checkpoints × ranks × tasks → curves, scores and a report in a run folder."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import UNSET
from typing_extensions import Unpack

from aurac.analysis.primary import declaration
from aurac.arguments import keywords
from aurac.errors import RunFolderError
from aurac.files import link_or_copy
from aurac.models.device import in_use, machine, versions
from aurac.notebook import Run
from aurac.records.hub import recorded_base
from aurac.records.reader import recipe_groups
from aurac.records.results_file import (
    REPORT_FILE,
    RESULTS_FILE,
    BaseRecord,
    Provenance,
    Results,
    RunSettings,
)
from aurac.records.store import CellStore, cannot_write
from aurac.runs.executors import make_executor
from aurac.runs.finished import InputSnapshot
from aurac.runs.folder import (
    RunRequest,
    find_run_folder,
    open_run_folder,
    recorded_besides,
    subset_folder,
    warn_unused,
)
from aurac.runs.interrupts import Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import NoProgress, SweepProgress
from aurac.runs.results import (
    CellReader,
    adapter_records,
    results_of,
    task_record,
)
from aurac.runs.runner import Executor, RunContext
from aurac.runs.session import Session, open_request
from aurac.runs.settings import DEFAULTS, Execution, Request, RequestOptions
from aurac.runs.status import CellStates, add_to_plan

logger = logging.getLogger(__name__)

_ELSEWHERE = {
    name: f"`aurac compare --{name.replace('_', '-')}` has it" for name in ("dry_run",)
} | {"resume": "the same call goes on", "log_samples": "run.samples has them"}
_MOST_REPAIRS = 3  # rounds in which damaged cells are computed again


@keywords(RequestOptions, _ELSEWHERE, **DEFAULTS)
def compare(
    checkpoints: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    *,
    out: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
    **options: Unpack[RequestOptions],
) -> Run:
    """Evaluate adapters at every rank on tasks and write curves, AURAC and a report.

    Args:
        checkpoints: Folder, file or hub id of an adapter, or several.
        tasks: Names that lm-eval knows, or bundled ones; a text may hold several, with commas.
        out: Run folder; None: `runs/<tasks>-<hash of the request>`. The same request goes on where
            it stopped, and processes that are given the same request share the work. Adapters,
            tasks and ranks may be added. A request for fewer than the folder holds gets results of
            its own in `<out>/subsets`, and those of the whole stay as they are.
        progress: Show a progress bar with the time left on standard error.
        command: The command line, for the provenance.
        options: As on the command line: `limit` (documents of each task), `metric` and `data` (by
            task), `ranks`, `basis`, `base`, `groups` (recipe → seeds), `primary`. `TaskOptions`,
            `TruncationOptions`, `ModelOptions`, `EngineOptions`, `Settings` and `Execution` of
            `aurac.runs.settings` describe each. One will do where several are expected:
            ``basis="svd"``, ``primary="a,b"``, ``ranks=4``.

    Raises:
        AuracError: Any input that cannot be used, before anything is computed; later a run folder
            that takes no more, or a lost device.
        Interrupted: A signal came; the same call goes on.
    """
    return run(Request.of(checkpoints, tasks, out, **options), progress=progress, command=command)


def run(
    request: Request,
    *,
    progress: bool = False,
    command: str | None = None,
) -> Run:
    """As `compare`, for a request that is one object."""
    started = time.time()
    execution, out, tasks = request.execution, request.out, request.tasks
    executor, elsewhere = make_executor(execution), execution.executor == "ray"
    with Interrupts() as interrupts:
        session = open_request(request)
        check_primary(session)
        identity = session.request()
        _place, begun = find_run_folder(out, tasks, identity, command)
        if not begun and not elsewhere:  # a base that cannot be used leaves no folder behind
            session.base()
        folder = open_run_folder(out, tasks, identity, command)
        snapshot = InputSnapshot(request, session.outline.path, started)
        parts = session, execution, executor, folder, interrupts, progress
        done = Sweep(*parts, command, started).run()
        snapshot.keep(done)
        return done


@dataclass(eq=False)
class Sweep:
    """One process's part in the run of a folder."""

    session: Session
    execution: Execution
    executor: Executor
    folder: Path
    interrupts: Interrupts
    progress: bool
    command: str | None
    started: float

    def __post_init__(self) -> None:
        self.store, self.log = CellStore(self.folder), RunLog(self.folder)

    def run(self) -> Run:
        """Compute what is missing, gather, write."""
        try:
            with self.log, Locks(self.folder) as self._locks, self.executor:
                self.log.event("start", command=self.command, versions=versions())
                self.store.tidy()
                cells = self._planned()
                warn_unused(self.store, [cell.identity for cell in cells])
                for change in CellStates.of((cell.row for cell in cells), self.store).rescored():
                    logger.warning("%s", change)
                if self.execution.retry_failed:
                    for key in self.store.failed_keys():
                        self.store.clear_failure(key)
                return self._computed(cells)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _planned(self) -> list[PlannedCell]:
        """The cells of the session, which the folder's plan then has."""
        self.session.fit(self.folder)
        cells = self.session.cells()
        add_to_plan(self.folder, [cell.row for cell in cells])
        return cells

    def _computed(self, cells: list[PlannedCell]) -> Run:
        return self._written(results_of(self.session, self._filled(cells)), len(cells))

    def _filled(self, cells: list[PlannedCell]) -> CellReader:
        """Compute what is missing of the cells, and read them; damaged ones are computed again."""
        for _ in range(_MOST_REPAIRS):
            self._compute(cells)
            reader = CellReader(cells, self.store)
            incomplete = reader.incomplete()
            if not incomplete:
                break
            for cell, there in incomplete:
                self.store.recount(cell.identity, there, cell.scoring)
        return reader

    def _compute(self, wanted: list[PlannedCell]) -> None:
        todo = _left(wanted, self.store)
        bar = NoProgress()
        if self.progress:
            bar = SweepProgress(todo, wanted, self.store, self.interrupts)
        context = RunContext(self.store, self._locks, self.interrupts, self.log, bar)
        with bar:
            if todo:
                self.executor.run(self.session, todo, context)

    def _written(self, results: Results, cells: int) -> Run:
        """Results and report, by one process at a time."""
        self.executor.close()
        session = self.session
        request = session.request()
        results = msgspec.structs.replace(
            results,
            primary=recorded.primary if (recorded := RunRequest.read(self.folder)) else UNSET,
            tasks=[task_record(self.folder, task, session) for task in session.built],
            provenance=_provenance(session, self.command, self.started),
        )
        with self._locks.awaited("results"):
            besides, place, text = recorded_besides(self.folder, request), self.folder, ""
            if besides:
                place = subset_folder(self.folder, request)
                for name in results.files():
                    link_or_copy(self.folder / name, place / name)
                text = f"{self.folder} also holds {', '.join(besides)}"
                whole = self.folder / RESULTS_FILE
                if whole.is_file():
                    text += f"; {whole} and the report beside it stay as they are"
            before = _before(place)
            if before and (place / REPORT_FILE).is_file() and _equal(before, results):
                pages = (place / REPORT_FILE, place / "report.html")  # with its margin and labels
                return Run(place, before, pages, cells, besides=text)
            (place / REPORT_FILE).unlink(missing_ok=True)  # it tells of other results
            results.write(place)
            from aurac.show import write_report

            files = tuple(write_report(place))
            return Run(place, results, files, cells, besides=text)


def check_primary(session: Session) -> None:
    """Refuse primary comparisons of names that the results will not have."""
    if session.settings.primary:
        groups = recipe_groups(adapter_records(session), session.settings.groups)
        pairs = [(a, b) for a, b in session.settings.primary]
        declaration(pairs, None, session.adapters, groups, finished=False)


def _left(cells: Sequence[PlannedCell], store: CellStore) -> list[PlannedCell]:
    """The cells that are not done."""
    left = {row.key for row in CellStates.of((cell.row for cell in cells), store).left}
    return [cell for cell in cells if cell.identity.key in left]


def _before(place: Path) -> Results | None:
    """The results that are there, where they can be read."""
    try:
        return Results.read(place)
    except RunFolderError:
        return None


def _equal(before: Results, results: Results) -> bool:
    """Whether two results differ in command and times alone."""
    now = results.provenance
    times = {name: getattr(now, name) for name in ("command", "started", "finished", "seconds")}
    made = msgspec.structs.replace(before.provenance, **times)
    return msgspec.structs.replace(before, provenance=made) == results


def _provenance(session: Session, command: str | None, started: float) -> Provenance:
    """What produced the results of a run that began at `started`, and ends now."""
    finished = time.time()
    base, settings = session.outline, session.settings
    task, cut, spread = settings.task, settings.truncation, settings.model.device_map
    begun, ended = (dt.datetime.fromtimestamp(s, tz=dt.timezone.utc) for s in (started, finished))
    tokenizer = session.tokenizer.name if base.tokenizer_sha256 else UNSET
    return Provenance(
        command=command,
        started=begun.isoformat(timespec="seconds"),
        finished=ended.isoformat(timespec="seconds"),
        seconds=round(finished - started, 1),
        seed=task.seed,
        dtype=base.dtype,
        device=base.device,
        base=BaseRecord(name=recorded_base(base.name), sha256=base.sha256, tokenizer=tokenizer),
        versions=versions(),
        machine={**machine(), **in_use(base.device)},
        settings=RunSettings(
            ranks=cut.ranks if isinstance(cut.ranks, str) else list(cut.ranks),
            basis=list(cut.basis),
            rescale=list(cut.rescale) if cut.rescale else None,
            num_fewshot=task.num_fewshot,
            fewshot=task.fewshot,
            limit=task.limit,  # type: ignore[arg-type]
            split=task.split,
            chat_template=task.chat_template,
            **task.prompting(),
            cluster=dict(task.cluster),
            device_map=spread if isinstance(spread, str | None) else dict(spread),
            data={name: Path(folder).name for name, folder in task.data.items()},
            batching=session.batching,
        ),
    )
