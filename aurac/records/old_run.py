"""A run folder as a report takes it: curves named apart, with documents that are read on demand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from aurac.arguments import suggestion
from aurac.curves.curve import Curve
from aurac.curves.names import LENGTH, curve_names
from aurac.errors import RunFolderError, UsageError
from aurac.records.decisions import Declaration
from aurac.records.reader import CurveReader, StoredCells, inside
from aurac.records.requests import RequestsHeader, StoredRequests
from aurac.records.results_file import (
    BY_RANK,
    AdapterRecord,
    Area,
    CurveRecord,
    FailedCell,
    Provenance,
    Results,
    TaskRecord,
)
from aurac.records.serving import ServingRecord, read_serving
from aurac.records.store import Cell
from aurac.terminal import one_line

PREFIX, WITHOUT_P = "prefix", "without P"  # what the published inference is


@dataclass(frozen=True)
class Speed:
    """Tokens computed for each second inside the model, and wall seconds for each document."""

    tokens: float
    seconds: float


class StoredDocuments(StoredCells):
    """The documents of one run folder, read when they are asked for; all paths lie within it.

    Caches each cell's speed.
    """

    def __init__(self, folder: Path, results: Results) -> None:
        super().__init__(folder, results)
        self.results, self._speeds = results, dict[tuple[str, ...], Speed | None]()
        for path in results.files():
            inside(folder, path)
        self._reader = CurveReader(folder, results)
        self._reader.cells = self
        self.cells = lru_cache(maxsize=512)(self._cells)
        self.curve = lru_cache(maxsize=4096)(self._curve)
        self.questions = lru_cache(maxsize=64)(self._questions)

    def read(self, curve: CurveRecord, rank: int) -> list[Cell]:
        """As of `StoredCells`."""
        cells = super().read(curve, rank)
        n_docs = sum(len(cell.documents) for cell in cells)
        forward = sum(cell.engine.forward_seconds or 0.0 for cell in cells)
        tokens = sum(cell.engine.computed_tokens or 0.0 for cell in cells)
        wall = sum(cell.seconds for cell in cells)
        speed = Speed(tokens / forward, wall / n_docs) if n_docs and forward else None
        self._speeds[tuple(curve.files(rank))] = speed if tokens and wall else None
        return cells

    def _cells(self, curve: CurveRecord, rank: int) -> list[Cell] | None:
        """The cells of a curve at a rank (0 is the base), of a group one for each member.

        None where they were not kept, or are damaged.
        """
        try:
            cells = self.read(curve, rank)
        except RunFolderError:
            return None
        return cells if cells and all(c.scores(curve.metric) is not None for c in cells) else None

    def _curve(self, curve: CurveRow) -> Curve | None:
        """The curve with its documents, for `aurac.stats`.

        None when a cell is missing or damaged, when the ranks have other documents, or when the
        documents do not average to the accuracy that `results.json` states.
        """
        stored = curve.record
        if stored is None or not curve.ranks or not all(map(curve.files, curve.ranks)):
            return None
        try:
            read = self._reader.curve(stored, curve.metric)
        except RunFolderError:
            return None
        agrees = np.allclose(read.accuracy, curve.accuracy, rtol=0, atol=1e-6)
        return read if agrees and read.outcomes is not None else None

    def speed(self, curve: CurveRecord, rank: int) -> Speed | None:
        """How fast a cell was computed; None where that was not counted."""
        paths = tuple(curve.files(rank))
        if paths not in self._speeds:
            self.cells(curve, rank)
        return self._speeds.get(paths)

    def _questions(self, task: str) -> Mapping[str, Wording]:
        """Questions and references of a task by document; empty where the run kept none."""
        try:
            content = self.documents(task)
        except RunFolderError:
            content = None
        if content is None:
            return {}
        choices = content.choices or [None] * len(content.doc_ids)
        rows = zip(content.doc_ids, content.questions, content.targets, choices, strict=False)
        return {doc: Wording(q or "", target or "", tuple(c or ())) for doc, q, target, c in rows}


class Wording(NamedTuple):
    """What a document asks."""

    question: str = ""
    target: str = ""
    choices: tuple[str, ...] = ()


class CurveRow(CurveRecord, frozen=True, kw_only=True, dict=True, eq=False):
    """A curve of `results.json` with the ranks that have an accuracy only, in ascending order.

    Attributes:
        label: The shortest name that is unique within the run.
        called: The adapter in that name, without its truncation.
        published: What the published inference is: `without P`, also where a study asks for that
            truncation by name, or `prefix` where the adapter is compared by SVD; else empty.
        seed: Of the training; None where it is not recorded.
        members: The curves of single training seeds, of which this is the mean.
        family: Whether an adapter was trained for each rank, so that none is truncated.
        source: The documents behind it; None where there is no run folder.
        record: The curve as it was stored.
    """

    ranks: tuple[int, ...]  # type: ignore[assignment]
    accuracy: tuple[float, ...]  # type: ignore[assignment]
    label: str = ""
    called: str = ""
    published: str = ""
    seed: int | None = None
    members: tuple[CurveRow, ...] = ()
    family: bool = False
    source: StoredDocuments | None = None
    record: CurveRecord | None = None

    @classmethod
    def of(cls, record: CurveRecord, **more: Any) -> CurveRow:
        """The row of a record."""
        fields = msgspec.structs.asdict(record)
        missing = dict(record.missing)
        known = []
        for at, (rank, value) in enumerate(zip(record.ranks, record.accuracy, strict=True)):
            if value is not None and math.isfinite(value):
                known.append(at)
            else:
                missing.setdefault(rank, "no accuracy was stored")
        known.sort(key=lambda at: record.ranks[at])
        for name in BY_RANK:
            column = fields[name] or [None] * len(record.ranks)
            fields[name] = tuple(column[at] for at in known)
        ranks = tuple(record.ranks[at] for at in known)
        name = f"{record.id} · {record.task}"  # a stored id is unique within its task
        return cls(
            **{**fields, "id": name, "ranks": ranks, "missing": missing, "record": record, **more}
        )

    @property
    def seeds(self) -> int:
        """How many training seeds are behind the curve."""
        return max(1, len(self.members))

    @property
    def is_default(self) -> bool:
        """Whether this is the curve that the adapter is judged by."""
        return self.role == "default"

    @property
    def whole(self) -> bool:
        """Whether the adapter was measured at its own rank alone, and so was not truncated."""
        alone = self.is_default and self.ranks == (self.trained_rank,)
        return alone and self.rescale != "trained"  # which multiplies by P

    @property
    def full_name(self) -> str:
        """The adapter with its truncation."""
        return f"{self.adapter} · {self.basis} · {self.rescale}"

    @property
    def name(self) -> str:
        """As the analysis names it: the adapter, with its truncation if that is not its default."""
        return self.adapter if self.is_default else self.full_name

    @property
    def log2(self) -> Area | None:
        """AURAC on the log2 axis, the headline."""
        return self.score.log2 if self.score else None

    @property
    def linear(self) -> Area | None:
        """AURAC on the linear axis."""
        return self.score.linear if self.score else None

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the ranks."""
        return self.score.mean if self.score else None

    @property
    def area(self) -> float:
        """The headline AURAC; -1 without one, which comes last."""
        return self.score.log2.value if self.score else -1.0

    @cached_property
    def axis_weights(self) -> dict[str, list[float]]:
        """Axis → the weight of each rank."""
        both = msgspec.structs.asdict(self.weights) if self.weights else {}
        return {axis: w for axis, w in both.items() if w and len(w) == len(self.ranks)}

    @cached_property
    def header(self) -> RequestsHeader | None:
        """What the run kept of the task beside its prompts; None where that is not here."""
        if self.source is None or not (where := self.source.results.task(self.task).requests):
            return None
        return StoredRequests.header_in(inside(self.source.folder, where))

    def point(self, at: int) -> Area:
        """The accuracy at one of the ranks, by its place."""
        low, high = self.accuracy_low[at], self.accuracy_high[at]
        return Area(value=self.accuracy[at], low=low, high=high)

    def at_rank(self, rank: int, adapter: str) -> CurveRow:
        """One point of the curve, as that of an adapter of this rank with another name."""
        at = self.ranks.index(rank)
        own = {name: (getattr(self, name)[at],) for name in BY_RANK}
        return msgspec.structs.replace(self, adapter=adapter, ranks=(rank,), score=None, **own)


@dataclass(frozen=True)
class StoredRun:
    """One run, or several that may be compared, as the report shows them."""

    curves: tuple[CurveRow, ...]
    tasks: tuple[TaskRecord, ...]
    adapters: tuple[AdapterRecord, ...]
    failures: tuple[FailedCell, ...]
    provenance: tuple[Provenance, ...]
    version: str
    roots: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    primary: Declaration | None = None
    serving: tuple[ServingRecord, ...] = ()

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks that have a curve, in the order of the run."""
        seen = {curve.task: None for curve in self.curves}
        listed = [task.name for task in self.tasks if task.name in seen]
        return tuple(dict.fromkeys([*listed, *seen]))

    def of_task(self, task: str) -> tuple[CurveRow, ...]:
        """The curves of one task, in the order of the run."""
        return tuple(curve for curve in self.curves if curve.task == task)

    def task(self, name: str) -> TaskRecord:
        """What the run says about one task; an empty record when it says nothing."""
        return next((task for task in self.tasks if task.name == name), TaskRecord(name=name))


def stored_run(results: Results, folder: Path | None = None) -> StoredRun:
    """What the report shows of a `results.json`.

    The cells' paths are relative to `folder` and lie within it; without it there are no documents.
    """
    source = StoredDocuments(folder, results) if folder else None
    serving = read_serving(folder, results) if folder else None
    seeds = {adapter.name: adapter.seed for adapter in results.adapters}
    families = {adapter.name for adapter in results.adapters if adapter.format == "family"}
    rows = [
        CurveRow.of(record, seed=seeds.get(name), family=name in families, source=source)
        for record in results.curves
        for name in (record.adapter,)
    ]
    draws = {name for task in results.tasks if task.drawn is True for name in task.members}
    return StoredRun(
        curves=labelled(rows),
        tasks=tuple(task for task in results.tasks if task.name not in draws),
        adapters=tuple(results.adapters),
        failures=tuple(results.failures),
        provenance=(results.provenance,),
        version=results.aurac,
        roots=(folder,) if folder else (),
        groups=results.groups,
        primary=results.primary or None,
        serving=(serving,) if serving else (),
    )


def labelled(curves: Sequence[CurveRow]) -> tuple[CurveRow, ...]:
    """Give each curve the shortest name that is unique within the run."""
    names = curve_names((curve.adapter, f"{curve.basis} · {curve.rescale}") for curve in curves)
    by_svd = {curve.adapter for curve in curves if curve.is_default and curve.basis == "svd"}
    rows = []
    for row in curves:
        kind = PREFIX if row.adapter in by_svd else WITHOUT_P
        label = names[row.adapter, f"{row.basis} · {row.rescale}"]
        published = kind if row.role == "published" else ""
        published = WITHOUT_P if label.endswith(f" ({WITHOUT_P})") else published
        called = one_line(row.adapter, LENGTH)
        rows.append(msgspec.structs.replace(row, published=published, label=label, called=called))
    return tuple(rows)


def renamed(curves: Sequence[CurveRow], labels: Mapping[str, str]) -> tuple[CurveRow, ...]:
    """The curves of a run with other names.

    `labels`: an adapter, a group or a curve as the report names it → what to call it instead.

    Raises:
        UsageError: A name that is not there, or two curves of a task with one name.
    """
    own = {curve.label: curve.label for curve in curves}
    adapters = {curve.adapter: one_line(curve.adapter, LENGTH) for curve in curves}
    known = {**own, **adapters}
    for name in labels:
        if name not in known:
            expected, fix = f"one of {', '.join(known)}", suggestion(name, known)
            raise UsageError(f"label of {name!r}, which is not shown", expected=expected, fix=fix)
    rows, taken = [], dict[tuple[str, str], str]()
    for curve in curves:
        label = labels.get(curve.label)
        if label is None and curve.adapter in labels:
            label = labels[curve.adapter] + curve.label.removeprefix(adapters[curve.adapter])
        called = one_line(labels.get(curve.adapter, curve.called))
        label = one_line(label or curve.label)
        row = msgspec.structs.replace(curve, label=label, called=called)
        other = taken.setdefault((row.task, row.label), curve.label)
        if other != curve.label:
            raise UsageError(
                f"{row.label!r} as the label of {other} and of {curve.label}", expected="two labels"
            )
        rows.append(row)
    return tuple(rows)


def seeds_of(curve: CurveRow) -> list[Curve] | None:
    """The curve's checkpoints with their documents; None where any of them has none."""
    rows = curve.members or (curve,)
    curves = (row.source.curve(row) if row.source and row.ranks else None for row in rows)
    known = [one for one in curves if one is not None]
    return known if len(known) == len(rows) else None
