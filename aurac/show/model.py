"""What a report shows of `results.json`: curves in order, named apart; several runs merged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import RunFolderError
from aurac.records.cell import differences
from aurac.records.schema import Area, CurveRecord, Results, TaskRecord
from aurac.records.serving import read_serving
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from aurac.records.decisions import Declaration, RankChoice, SequentialRecord
    from aurac.records.schema import AdapterRecord, FailedCell, Provenance
    from aurac.records.serving import ServingRecord
    from aurac.show.documents import Source
    from aurac.stats.mean import Estimate

ALPHA = 0.05
# With more tasks than this a report summarises, and looks closely at the leaders only.
MANY_TASKS = 4
MAX_HIGHLIGHTED = 8
_NAME = 60  # characters of an adapter's name in sentences and tables; files have it whole
_BY_RANK = ("accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes", "near_ties")
_SCALES = {"rule": "scaling rule", "keep": "scale kept", "fit": "scale fitted"}
_TRAINED = "with the trained P"
_PREFIX, _WITHOUT_P = "prefix", "without P"  # what the published inference is

LEVEL = 0.95  # of every interval

Interval = Area


def as_interval(estimate: Estimate) -> Interval:
    """What a report shows of an estimate."""
    return Interval(**estimate.to_dict())  # type: ignore[arg-type]


class CurveRow(CurveRecord, frozen=True, kw_only=True, dict=True, eq=False):
    """A curve of `results.json` with the ranks that have an accuracy only, in ascending order.

    Attributes:
        label: The shortest name that is unique within the run.
        published: What the published inference is: `prefix` where the adapter is compared by SVD,
            else `without P`; empty for other roles.
        seed: Of the training; None where it is not recorded.
        members: The curves of single training seeds, of which this is the mean.
        source: The documents behind it; None where there is no run folder.
        record: The curve as it was stored.
    """

    ranks: tuple[int, ...]  # type: ignore[assignment]
    accuracy: tuple[float, ...]  # type: ignore[assignment]
    label: str = ""
    published: str = ""
    seed: int | None = None
    members: tuple[CurveRow, ...] = ()
    source: Source | None = None
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
        for name in _BY_RANK:
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
    def full_name(self) -> str:
        """The adapter with its truncation, as the analysis names it."""
        return f"{self.adapter} · {self.basis} · {self.rescale}"

    @property
    def name(self) -> str:
        """What the analysis calls the row: the adapter, unless it is another truncation of it."""
        return self.adapter if self.is_default else self.full_name

    @property
    def log2(self) -> Interval | None:
        """AURAC on the log2 axis, the headline."""
        return self.score.log2 if self.score else None

    @property
    def linear(self) -> Interval | None:
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

    def point(self, at: int) -> Interval:
        """The accuracy at one of the ranks, by its place."""
        low, high = self.accuracy_low[at], self.accuracy_high[at]
        return Interval(value=self.accuracy[at], low=low, high=high)

    @property
    def scale(self) -> str:
        """How the truncated adapter is scaled, in words."""
        if self.published == _WITHOUT_P:
            return as_published([self])
        return _TRAINED if self.rescale == "trained" else _SCALES.get(self.rescale, self.rescale)

    @property
    def truncation(self) -> str:
        """Basis and scale, in words."""
        if self.published == _PREFIX:
            return "prefix, as published"
        return f"{'SVD' if self.basis == 'svd' else self.basis}, {self.scale}"


@dataclass(frozen=True)
class Run:
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
    sequential: SequentialRecord | None = None
    rank_choice: RankChoice | None = None
    serving: tuple[ServingRecord, ...] = ()

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks that have a curve, in the order of the run."""
        seen = {curve.task: None for curve in self.curves}
        listed = [task.name for task in self.tasks if task.name in seen]
        return tuple(dict.fromkeys([*listed, *seen]))

    @property
    def many_tasks(self) -> bool:
        """Whether the report summarises."""
        return len(self.task_names) > MANY_TASKS

    def of_task(self, task: str) -> tuple[CurveRow, ...]:
        """The curves of one task, in the order of the run."""
        return tuple(curve for curve in self.curves if curve.task == task)

    def task(self, name: str) -> TaskRecord:
        """What the run says about one task; an empty record when it says nothing."""
        return next((task for task in self.tasks if task.name == name), TaskRecord(name=name))


def ordered(curves: Iterable[CurveRow]) -> list[CurveRow]:
    """Curves by falling AURAC; those without a score come last, in the order of the run.

    Equal ones are in the order of `aurac.analysis.rows.BestRow`.
    """

    def place(curve: CurveRow) -> tuple[float, bool, str]:
        if curve.log2 is None:
            return 1.0, False, ""
        return -round(curve.area, 12), not curve.is_default, curve.full_name

    return sorted(curves, key=place)


def scored(run: Run, task: str) -> list[CurveRow]:
    """The curves of a task that have an area, the largest first."""
    return ordered(curve for curve in run.of_task(task) if curve.log2)


def published_pairs(run: Run, task: str | None = None) -> list[tuple[CurveRow, CurveRow]]:
    """Default curves (of a task) beside their adapter as published."""
    return [
        (default, curve)
        for curve in run.curves
        if curve.role == "published" and curve.log2 and task in (None, curve.task)
        for default in scored(run, curve.task)
        if default.is_default and default.adapter == curve.adapter
    ]


def as_published(curves: Iterable[CurveRow]) -> str:
    """What the published curves among these are, in words; empty without one."""
    kinds = sorted({curve.published for curve in curves if curve.published})
    return f"as published ({', '.join(kinds)})" if kinds else ""


def unequal_documents(curves: Iterable[CurveRow]) -> str:
    """The numbers of documents in words, where curves of one task have not the same; else empty."""
    counts = sorted({curve.n_docs for curve in curves if curve.n_docs})
    return f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else ""


def bold_means(curves: Collection[CurveRow], best: Collection[str]) -> str:
    """What bold says in a table of scores, a sentence after a space; empty where none is bold."""
    if documents := unequal_documents(curves):
        return f" The rows are of {documents} documents, so none is the best."
    if not any(curve.id in best for curve in curves):
        return ""
    return " Bold: the largest, and all that no other row is shown to be better than."


def highlighted(run: Run, task: str) -> list[CurveRow]:
    """The curves in colour: the best, the best default ones, other truncations of these."""
    curves = [curve for curve in run.of_task(task) if curve.ranks]
    default = ordered([c for c in curves if c.is_default])[:MAX_HIGHLIGHTED]
    names = {curve.adapter for curve in default}
    rest = ordered([c for c in curves if not c.is_default and (c.adapter in names or not default)])
    every = dict.fromkeys(curve.id for curve in (*ordered(curves)[:1], *default, *rest))
    ids = {*list(every)[:MAX_HIGHLIGHTED]}
    return [curve for curve in curves if curve.id in ids]


def as_run(results: Results, folder: Path | None = None) -> Run:
    """What the report shows of a `results.json`.

    The cells' paths are relative to `folder` and lie within it; without it there are no documents.
    """
    from aurac.show.documents import Source

    source = Source(folder, results) if folder else None
    serving = read_serving(folder, results) if folder else None
    seeds = {adapter.name: adapter.seed for adapter in results.adapters}
    rows = [
        CurveRow.of(record, seed=seeds.get(record.adapter), source=source)
        for record in results.curves
    ]
    draws = {name for task in results.tasks if task.drawn is True for name in task.members}
    return Run(
        curves=labelled(rows),
        tasks=tuple(task for task in results.tasks if task.name not in draws),
        adapters=tuple(results.adapters),
        failures=tuple(results.failures),
        provenance=(results.provenance,),
        version=results.aurac,
        roots=(folder,) if folder else (),
        groups=results.groups,
        primary=results.primary or None,
        sequential=results.sequential or None,
        rank_choice=results.rank_choice or None,
        serving=(serving,) if serving else (),
    )


def labelled(curves: Sequence[CurveRow]) -> tuple[CurveRow, ...]:
    """Give each curve the shortest name that is unique within the run."""
    ways: dict[str, set[tuple[str, str]]] = {}
    published = {curve.adapter for curve in curves if curve.role == "published"}
    by_svd = {curve.adapter for curve in curves if curve.is_default and curve.basis == "svd"}
    for curve in curves:
        known = ways.setdefault(curve.adapter, set())
        if curve.role != "published":
            known.add((curve.basis, curve.rescale))
    rows = []
    for row in curves:
        kind = _PREFIX if row.adapter in by_svd else _WITHOUT_P
        curve = msgspec.structs.replace(row, published=kind if row.role == "published" else "")
        label = _label(curve, ways[row.adapter], row.adapter in published)
        rows.append(msgspec.structs.replace(curve, label=label))
    return tuple(rows)


def _label(curve: CurveRow, ways: set[tuple[str, str]], published: bool) -> str:  # noqa: FBT001
    """The name, and of basis and scale what tells the adapter's curves apart."""
    name = one_line(curve.adapter, _NAME)
    if curve.published:
        return f"{name} ({curve.published})"
    scale = "with P" if curve.rescale == "trained" else curve.rescale
    basis = "SVD" if curve.basis == "svd" else curve.basis
    if len(ways) == 1 and basis == "prefix":
        return f"{name} ({scale})" if published else name
    if len(ways) == 1:
        return f"{name} ({basis})"
    if len({basis for basis, _ in ways}) == len(ways):
        return f"{name} ({basis})"
    if len({basis for basis, _ in ways}) == 1:
        return f"{name} ({scale})"
    return f"{name} ({basis}, {scale})"


# What has to be the same for the numbers of one task to stand in one table.
_TASK_KEYS = {
    "documents_sha256": "other documents",
    "prompts_sha256": "other prompts",
    "metric": "another metric",
    "num_fewshot": "another number of few-shot examples",
    "limit": "another limit",
    "version": "another version of the task",
}


def merge(runs: Sequence[Run]) -> Run:
    """One run with the curves of all.

    The same curve in two runs (one adapter hash, one truncation) is shown once.

    Raises:
        RunFolderError: The runs differ in base, numeric type, documents, prompts or metric, or use
            one adapter name for two checkpoints.
    """
    first = runs[0]
    tasks: dict[str, tuple[Run, TaskRecord]] = {}
    adapters: dict[str, tuple[Run, AdapterRecord]] = {}
    curves: dict[tuple[str, ...], CurveRow] = {}
    for run in runs:
        ours, theirs = first.provenance[0], run.provenance[0]
        bases = (made.base.sha256 or made.base.name for made in (ours, theirs))
        _same(first, run, "another base model", *bases)
        _same(first, run, "another numeric type", ours.dtype, theirs.dtype)
        _same_cells(first, run)
        for task in run.tasks:
            origin, known = tasks.setdefault(task.name, (run, task))
            for key, what in _TASK_KEYS.items():
                where = f"{what} on {one_line(task.name)}"
                _same(origin, run, where, getattr(known, key), getattr(task, key))
        for adapter in run.adapters:
            origin, other = adapters.setdefault(adapter.name, (run, adapter))
            what = f"another adapter named {one_line(adapter.name)}"
            _same(origin, run, what, other.sha256, adapter.sha256)
        _add_curves(curves, run)
    every: dict[str, Any] = {
        name: tuple(one for run in runs for one in getattr(run, name))
        for name in ("failures", "provenance", "roots", "serving")
    }
    return replace(
        first,
        curves=labelled(list(curves.values())),
        tasks=tuple(task for _, task in tasks.values()),
        adapters=tuple(adapter for _, adapter in adapters.values()),
        groups={name: members for run in runs for name, members in run.groups.items()},
        primary=next((run.primary for run in runs if run.primary), None),
        **every,
    )


def _add_curves(curves: dict[tuple[str, ...], CurveRow], run: Run) -> None:
    for curve in run.curves:
        identity = (curve.adapter, curve.task, curve.metric, curve.basis, curve.rescale)
        row = curves.setdefault(identity, curve)
        if row.ranks != curve.ranks or row.accuracy != curve.accuracy:
            raise RunFolderError(
                f"{one_line(curve.label)} on {one_line(curve.task)} has other numbers in "
                f"{_place(run)}",
                expected="one result for one curve",
                fix="report the runs one by one",
            )


def _same_cells(first: Run, other: Run) -> None:
    ours, theirs = _identities(first), _identities(other)
    for task in ours.keys() & theirs.keys():
        for name in differences(ours[task], theirs[task]):
            what = f"their cells differ in {name}"
            _same(first, other, what, ours[task].get(name), theirs[task].get(name))


def _identities(run: Run) -> dict[str, dict[str, Any]]:
    """What one stored cell of each task says about how it was made."""
    identities: dict[str, dict[str, Any]] = {}
    for curve in run.curves:
        if curve.task not in identities and curve.source and curve.ranks:
            for cell in (curve.source.cells(curve, curve.ranks[0]) or [])[:1]:
                identities[curve.task] = cell.identity.to_dict()
    return identities


def _same(first: Run, other: Run, what: str, a: object, b: object) -> None:
    if a != b:
        values = f"{one_line(a, 24)} and {one_line(b, 24)}"
        raise RunFolderError(
            f"{_place(first)} and {_place(other)} cannot be compared: {what} ({values})",
            fix="report them one by one, or measure them again alike",
        )


def _place(run: Run) -> str:
    return one_line(run.roots[0].name) if run.roots else "the other run"
