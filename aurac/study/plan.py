"""What a study has done and what is left: trainings and cells, with the time they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import filelock
import msgspec

from aurac.adapters import load_adapter
from aurac.errors import RunFolderError, first_line
from aurac.files import packed, write_json
from aurac.records.cell import refuse_newer
from aurac.records.decisions import AFTER, BEFORE, Declaration
from aurac.records.results_file import RESULTS_FILE, STATE_FILE, Results
from aurac.records.store import CellStore, cannot_write
from aurac.runs.log import cell_costs
from aurac.runs.status import CellStates, read_plan
from aurac.study.design import (
    ADAPTERS,
    PlannedAdapter,
    Study,
    curves_of,
    results_of,
    searches,
    trainings_of,
)
from aurac.tasks.index import check_split
from aurac.training.recipe import Recipe

Key = tuple[str, str, int]  # task, method and rank of a training

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


@dataclass(frozen=True)
class MethodProgress:
    """The trainings of a method on a task, those of the search included.

    One that a family shares with another method is that method's. `pace` is the mean seconds of
    those done; None where that is not known.
    """

    task: str
    method: str
    done: int
    total: int
    pace: float | None


@dataclass(frozen=True)
class Progress:
    """Where a study stands.

    Attributes:
        searches, trainings: (done, all) adapters of the search and of the results.
        cells: (done, all) evaluations of a truncation, of search and results.
        methods: The trainings by task and method.
        training_left, cells_left: Seconds of one process at the pace of what is done; None where
            nothing comparable is done.
        rates, edges: As `rates_in` and `edges_in` say.
    """

    searches: tuple[int, int]
    trainings: tuple[int, int]
    cells: tuple[int, int]
    methods: list[MethodProgress]
    training_left: float | None
    cells_left: float | None
    rates: dict[str, dict[str, float]]
    edges: list[str]


def plan_study(study: Study, path: Path, out: Path) -> Progress:
    """Count what is there and what is left; nothing is loaded or computed.

    Raises:
        TaskError: A task is unknown or without the split to evaluate, and trainings are left.
    """
    unpack_adapters(out)
    state = read_state(out)
    rates = rates_in(study, state)
    tried = converged(searches(study, path), state)
    final = list(results_of(study, path, rates))
    counts = _count(tried, out), _count(final, out)
    if any(done < total for done, total in counts):
        check_tasks(study, path)
    methods, training_left = _trainings(study, [*tried, *final], out, state.get("seconds", {}))
    cells = [_cells(study, task, "search", tried, out) for task in study.tasks]
    cells += [_cells(study, task, "results", final, out) for task in study.tasks]
    return Progress(
        searches=counts[0],
        trainings=counts[1],
        cells=(sum(done for done, _, _ in cells), sum(total for _, total, _ in cells)),
        methods=methods,
        training_left=training_left,
        cells_left=_sum(seconds for _, _, seconds in cells),
        rates=rates,
        edges=edges_in(study, state),
    )


def check_tasks(study: Study, path: Path) -> None:
    """Refuse unknown tasks and splits, as far as the YAML of a task says what there is."""
    searched = {adapter.task for adapter in searches(study, path)}
    for name, task in study.tasks.items():
        for kind in ("search", "results") if name in searched else ("results",):
            split = task.documents(kind).split
            check_split(task.evaluated(path), split, task.options.get("include_path"))


def converged(adapters: Iterable[PlannedAdapter], state: State) -> list[PlannedAdapter]:
    """The adapters without a training that diverged in the search, which is not tried again."""
    gone = state.get("diverged", {})
    return [a for a in adapters if all(gone.get(f) != r.sha256 for f, r in a.trainings.items())]


def _count(adapters: Iterable[PlannedAdapter], out: Path) -> tuple[int, int]:
    trainings = trainings_of(adapters)
    return sum(is_trained(out / folder, r) for folder, r in trainings.items()), len(trainings)


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one of them is not known."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known) if len(known) == len(listed) else None


def _trainings(
    study: Study, adapters: Sequence[PlannedAdapter], out: Path, seconds: dict[str, float]
) -> tuple[list[MethodProgress], float | None]:
    """Each method's trainings, and the seconds of those left."""
    keys: dict[str, Key] = {}
    for adapter in sorted(adapters, key=lambda adapter: study.methods[adapter.method].family):
        for folder, recipe in adapter.trainings.items():
            keys.setdefault(folder, (adapter.task, adapter.method, recipe.rank))
    known = [(key, seconds[folder]) for folder, key in keys.items() if folder in seconds]
    left = [folder for folder in keys if not (out / folder).is_dir()]
    methods = []
    for point in study.points:
        own = {folder for folder, key in keys.items() if key[:2] == point}
        paces = [seconds[folder] for folder in own if folder in seconds]
        pace = fmean(paces) if paces else None
        methods.append(MethodProgress(*point, len(own.difference(left)), len(own), pace))
    return methods, _sum(_pace(keys[folder], known) for folder in left)


def _pace(key: Key, known: Sequence[tuple[Key, float]]) -> float | None:
    """Mean seconds of the trainings of the same task, method and rank.

    Where there are none, those of the same task and method, of the task, or all.
    """
    for length in (3, 2, 1, 0):
        if same := [seconds for other, seconds in known if other[:length] == key[:length]]:
            return fmean(same)
    return None


def _cells(
    study: Study, task: str, kind: str, adapters: Sequence[PlannedAdapter], out: Path
) -> tuple[int, int, float | None]:
    """Cells of a run that are done, all cells, and the seconds of those left, if known.

    A cell that two curves share, as a family's of the largest rank, is one.
    """
    curves: dict[tuple[Any, ...], str] = {}
    for adapter in (a for a in adapters if a.task == task):
        for variant in curves_of(study, adapter, final=kind == "results"):
            for rank in variant.ranks:
                source = variant.member(rank).source
                key = (source, rank, variant.basis, variant.rescale_at(rank))
                curves.setdefault(key, variant.label)
    if not curves:
        return 0, 0, 0.0
    folder = out / kind / task
    wanted = {(None, 0), *((label, key[1]) for key, label in curves.items())}  # with the base
    there = CellStates.of(read_plan(folder)[0] or [], CellStore(folder)).done
    limit = study.tasks[task].documents(kind).limit or None
    if (folder / RESULTS_FILE).is_file() and Results.read(folder).headline.limit != limit:
        there = tuple(row for row in there if limit and row.documents >= limit)
    done = len(wanted & {(row.curve, row.rank) for row in there})
    left = len(wanted) - done
    each = _seconds_of_a_cell(study, task, kind, out) if left else 0.0
    return done, len(wanted), None if each is None else each * left


def _seconds_of_a_cell(study: Study, task: str, kind: str, out: Path) -> float | None:
    """From the cells of the same run; else from the other run's, for as many documents."""
    plan, other = study.tasks[task], "search" if kind == "results" else "results"
    limits = {each: plan.documents(each).limit for each in (kind, other)}
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
            f"{file} cannot be read ({first_line(error)})", fix="restore it or choose another --out"
        ) from error


def update_state(
    out: Path, values: Mapping[str, object], study: Study, **replaced: object
) -> State:
    """Merge values into `study.json`, which other processes may have changed; what it then has.

    Its copy of the study is replaced, and so is what `replaced` holds.
    """
    with filelock.FileLock(out / f"{STATE_FILE}.lock"):
        known = _merged({**read_state(out), "schema": STATE_SCHEMA}, values)
        write_json(out / STATE_FILE, {**known, "study": msgspec.to_builtins(study), **replaced})
        return read_state(out)


def _merged(known: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """`known` with `values`; what both hold as mappings is merged in the same way."""
    merged = dict(known)
    for name, value in values.items():
        before = known.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[name] = _merged(before, value)
        else:
            merged[name] = value
    return merged


def rates_in(study: Study, state: State) -> dict[str, dict[str, float]]:
    """Task → method → the learning rate that was chosen, where its grid still has that."""
    rates: dict[str, dict[str, float]] = {}
    for task, method in study.points:
        rate = state.get("rates", {}).get(task, {}).get(method)
        if rate is not None and rate in study.rates_of(task, method):
            rates.setdefault(task, {})[method] = rate
    return rates


def edges_in(study: Study, state: State) -> list[str]:
    """`method on task` of the study whose best learning rate is at the end of its grid."""
    edges = state.get("edges", {})
    return [f"{m} on {t}" for t, m in study.points if edges.get(t, {}).get(m)]


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


def is_trained(folder: Path, recipe: Recipe) -> bool:
    """Whether the adapter of a folder is there; a RunFolderError if it is of another recipe."""
    if not folder.is_dir():
        return False
    if (load_adapter(folder, lazy=True).recipe or {}).get("sha256") != recipe.sha256:
        raise RunFolderError(
            f"{folder} was trained by another recipe than the study's",
            expected=f"the recipe with the SHA-256 {recipe.sha256}",
            fix="choose another --out, or remove that folder",
        )
    return True
