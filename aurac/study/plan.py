"""What a study has done and what is left: trainings and cells, with the time they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypedDict

import filelock
import msgspec

from aurac.adapters import load_adapter
from aurac.errors import RunFolderError
from aurac.files import packed
from aurac.records.cell import refuse_newer
from aurac.records.decisions import AFTER, BEFORE, Declaration
from aurac.records.schema import RESULTS_FILE, Results
from aurac.records.store import CellStore, cannot_write
from aurac.runs.log import cell_costs
from aurac.runs.status import CellStates, read_plan
from aurac.study.design import points_of
from aurac.study.trainings import ADAPTERS, curves_of, results_of, searches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.study.design import Study
    from aurac.study.trainings import PlannedAdapter, Training

STATE_FILE = "study.json"
STATE_SCHEMA = 2


class State(TypedDict, total=False):
    """The content of `study.json`; folders are within the study's, as POSIX paths."""

    schema: int
    study: dict[str, Any]  # the file
    versions: dict[str, str]
    data: dict[str, str]  # as recipes name them → SHA-256 of the training file
    rates: dict[str, dict[str, float]]  # task → method → chosen learning rate
    edges: dict[str, dict[str, bool]]  # task → method → whether that is an end of the grid
    searches: dict[str, str]  # task → folder of the run that chose
    results: dict[str, str]  # task → folder of the run on test documents
    primary: dict[str, Any]  # the primary comparisons, and when they were declared
    seconds: dict[str, float]  # folder of an adapter → of its optimizer steps
    losses: dict[str, list[Any]]
    diverged: dict[str, str]  # folder → SHA-256 of the recipe


def declared_in(study: Study, state: State) -> Declaration | None:
    """The primary comparisons of a study; where its file says others than before, dated anew."""
    before = msgspec.convert(state["primary"], Declaration) if "primary" in state else None
    if not study.primary or (before and before.pairs == study.primary):
        return before
    when = AFTER if state.get("results") else BEFORE
    return Declaration(pairs=study.primary, declared=when)


@dataclass
class MethodProgress:
    """The trainings of a method on a task, those of the search included.

    Attributes:
        task, method: Names of the study.
        done, total: Trainings. One that a family shares with another method is that method's.
        pace: Mean seconds of those done; None where that is not known.
    """

    task: str
    method: str
    done: int = 0
    total: int = 0
    pace: float | None = None


@dataclass
class Progress:
    """Where a study stands.

    Attributes:
        searches, trainings: (done, all) adapters of the search and of the results.
        cells: (done, all) evaluations of a truncation, of search and results.
        methods: The trainings by task and method.
        training_left, cells_left: Seconds of one process at the pace of what is done; None where
            nothing comparable is done.
        rates: Task → method → learning rate, where it is known.
        edges: `method on task` whose best learning rate is at the end of its grid.
    """

    searches: tuple[int, int]
    trainings: tuple[int, int]
    cells: tuple[int, int]
    methods: list[MethodProgress]
    training_left: float | None
    cells_left: float | None
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    edges: list[str] = field(default_factory=list)


def plan_study(study: Study, path: Path, out: Path) -> Progress:
    """Count what is there and what is left; nothing is loaded or computed."""
    unpack_adapters(out)
    state = read_state(out)
    rates = rates_in(study, state)
    first = converged(searches(study, path), state)
    last = list(results_of(study, path, rates))
    methods, training_left = _trainings(study, [*first, *last], out, state.get("seconds", {}))
    kinds = [_cells(study, task, "search", first, out) for task in study.tasks]
    kinds += [_cells(study, task, "results", last, out) for task in study.tasks]
    known = [seconds for _, _, seconds in kinds if seconds is not None]
    return Progress(
        searches=_count(first, out),
        trainings=_count(last, out),
        cells=(sum(done for done, _, _ in kinds), sum(total for _, total, _ in kinds)),
        methods=methods,
        training_left=training_left,
        cells_left=sum(known) if len(known) == len(kinds) else None,
        rates=rates,
        edges=edges_in(study, state),
    )


def diverged(one: Training, state: State) -> bool:
    """Whether a training of the search diverged, which is not tried again."""
    return bool(state.get("diverged", {}).get(one.folder.as_posix()) == one.recipe.sha256)


def converged(adapters: Iterable[PlannedAdapter], state: State) -> list[PlannedAdapter]:
    """The adapters without a training that diverged."""
    return [one for one in adapters if not any(diverged(each, state) for each in one.trainings)]


def _count(adapters: Iterable[PlannedAdapter], out: Path) -> tuple[int, int]:
    trainings = {training.folder: training for one in adapters for training in one.trainings}
    return sum(is_trained(one, out) for one in trainings.values()), len(trainings)


def _trainings(
    study: Study, adapters: Sequence[PlannedAdapter], out: Path, seconds: dict[str, float]
) -> tuple[list[MethodProgress], float | None]:
    """Each method's trainings, and the seconds of those left.

    The pace of a training is that of those done on the same task by the same method at the same
    rank; else by the same method; else of all on the task; else of all.
    """
    owners: dict[str, tuple[str, str, int]] = {}
    for one in sorted(adapters, key=lambda one: study.methods[one.method].family):
        for training in one.trainings:
            key = (one.task, one.method, training.recipe.rank)
            owners.setdefault(training.folder.as_posix(), key)
    paces: dict[tuple[Any, ...], list[float]] = {}
    for folder, key in owners.items():
        for length in range(len(key) + 1) if folder in seconds else ():
            paces.setdefault(key[:length], []).append(seconds[folder])
    plans = {
        (task, method): MethodProgress(task, method, pace=_mean(paces.get((task, method))))
        for task, method in points_of(study)
    }
    left: list[float | None] = []
    for folder, key in owners.items():
        there = (out / folder).is_dir()
        plan = plans[key[:2]]
        plan.total, plan.done = plan.total + 1, plan.done + there
        if not there:
            near = (paces[key[:n]] for n in range(len(key), -1, -1) if key[:n] in paces)
            left.append(_mean(next(near, None)))
    known = [time for time in left if time is not None]
    return list(plans.values()), sum(known) if len(known) == len(left) else None


def _mean(values: Sequence[float] | None) -> float | None:
    return fmean(values) if values else None


def _cells(
    study: Study, task: str, kind: str, adapters: Sequence[PlannedAdapter], out: Path
) -> tuple[int, int, float | None]:
    """Cells of a run that are done, all cells, and the seconds of those left, if known.

    A cell that two curves share, as a family's of the largest rank, is one.
    """
    final, folder = kind == "results", out / kind / task
    curves: dict[tuple[Any, ...], str] = {}
    for one in adapters:
        for variant in curves_of(study, one, final=final) if one.task == task else ():
            for rank in variant.ranks:
                source = variant.member(rank).source
                key = (source, rank, variant.basis, variant.rescale_at(rank))
                curves.setdefault(key, variant.label)
    if not curves:
        return 0, 0, 0.0
    wanted = {(label, key[1]) for key, label in curves.items()} | {(None, 0)}
    there = CellStates.of(read_plan(folder)[0] or [], CellStore(folder)).done
    limit = study.tasks[task].documents(kind).limit or None
    if (folder / RESULTS_FILE).is_file() and Results.read(folder).headline.limit != limit:
        there = tuple(row for row in there if limit and row.documents >= limit)
    done = len(wanted & {(row.curve, row.rank) for row in there})
    if done == len(wanted):
        return done, done, 0.0
    each = _seconds_of_a_cell(study, task, kind, out)
    return done, len(wanted), None if each is None else each * (len(wanted) - done)


def _seconds_of_a_cell(study: Study, task: str, kind: str, out: Path) -> float | None:
    """From the cells of the same run; else from the other run's, for as many documents."""
    plan = study.tasks[task]
    limits = {each: plan.documents(each).limit for each in ("search", "results")}
    other = "search" if kind == "results" else "results"
    for run in (kind, other):
        costs = [cost for costs in cell_costs(out / run / task).values() for cost in costs]
        share = 1.0 if run == kind else limits[kind] / limits[run] if limits[run] else 0.0
        if costs and share:
            return fmean(seconds for seconds, _ in costs) * share
    return None


def read_state(out: Path) -> State:
    """The content of a study's `study.json`; empty where there is none.

    Raises:
        RunFolderError: It is damaged, or was written by a newer aurac.
    """
    file = out / STATE_FILE
    if not file.is_file():
        return {}
    try:
        raw = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        refuse_newer(raw.get("schema"), STATE_SCHEMA, file)
        return msgspec.convert(raw, State)
    except (OSError, msgspec.DecodeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error})", fix="restore it or choose another --out"
        ) from error


def rates_in(study: Study, state: State) -> dict[str, dict[str, float]]:
    """Task → method → the learning rate that was chosen, where its grid still has that."""
    stored = state.get("rates", {})
    known = {(t, m): stored.get(t, {}).get(m) for t, m in points_of(study)}
    rates: dict[str, dict[str, float]] = {}
    for (task, method), rate in known.items():
        if rate in study.rates_of(task, method):
            rates.setdefault(task, {})[method] = rate
    return rates


def edges_in(study: Study, state: State) -> list[str]:
    """`method on task` of the study whose best learning rate is at the end of its grid."""
    edges = state.get("edges", {})
    return [f"{m} on {t}" for t, m in points_of(study) if edges.get(t, {}).get(m)]


def unpack_adapters(out: Path) -> None:
    """Unpack `adapters.tar.xz` where a study has no `adapters/`, whose weights were removed."""
    folder = out / ADAPTERS
    if folder.is_dir() or not (files := packed(folder)):
        return
    try:
        with (
            filelock.FileLock(out / f"{STATE_FILE}.lock"),
            TemporaryDirectory(dir=out, prefix=".", suffix=".tmp") as scratch,
        ):
            for name, content in files.items():
                path = Path(scratch, ADAPTERS, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if not folder.is_dir():
                Path(scratch, ADAPTERS).rename(folder)
    except OSError as error:
        raise cannot_write(out, error) from error


def is_trained(one: Training, out: Path) -> bool:
    """Whether the adapter is there.

    Raises:
        RunFolderError: What is there was trained by another recipe.
    """
    folder = out / one.folder
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
