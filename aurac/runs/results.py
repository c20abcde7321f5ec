"""`results.json`, schema 1: the curves of a run, their scores, and what produced them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from aurac.analysis.groups import gather
from aurac.analysis.rows import area_record
from aurac.analysis.whole import score_curve
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.files import write_json
from aurac.records.cell import EngineCounts
from aurac.records.hub import licence, recorded_base
from aurac.records.reader import pooled, pooled_curve
from aurac.records.results_file import (
    RESULTS_SCHEMA,
    AdapterRecord,
    Areas,
    AxisWeights,
    CurveRecord,
    DrawsRecord,
    EngineTotals,
    FailedCell,
    Results,
    SamplingRecord,
    TaskRecord,
)
from aurac.records.store import Cell, CellStore
from aurac.runs.plan import PlannedCell, Variant
from aurac.runs.session import Session, limit_of
from aurac.stats.mean import layout_of, spread_of_samples
from aurac.stats.seeds import components, mean_of_seeds
from aurac.tasks.task import BuiltTask, readable, write_requests


def results_of(session: Session, reader: CellReader) -> Results:
    """The content of `results.json` but for tasks and provenance."""
    from importlib.metadata import version

    draws = {draw.name for task in session.built if task.drawn for draw in task.members}
    base = recorded_base(session.outline.name)
    curves = [
        _curve(variant, part, reader, base, whole=task)
        for task in session.built
        for variant in session.variants
        if task.name not in draws
        if (part := session.task_of(task, variant)) is not None
    ]
    return Results(
        schema=RESULTS_SCHEMA,
        aurac=version("aurac"),
        curves=curves,
        adapters=adapter_records(session),
        groups={name: list(members) for name, members in session.settings.groups.items()},
        failures=list(reader.failures.values()),
        engine=msgspec.convert(reader.engine(), EngineTotals, from_attributes=True),
    )


def adapter_records(session: Session) -> list[AdapterRecord]:
    """What is known of each adapter."""
    first = {variant.name: variant for variant in reversed(session.variants)}
    return [_adapter(name, first[name]) for name in dict.fromkeys(v.name for v in session.variants)]


def failed_cell(cell: PlannedCell, reason: str) -> FailedCell:
    """A cell that could not be computed."""
    variant = cell.variant
    adapter, curve = (variant.name, variant.label) if variant else (None, None)
    return FailedCell(
        adapter=adapter, curve=curve, task=cell.task.name, rank=cell.rank, reason=reason
    )


class CellReader:
    """Reads each planned cell once; the cells of a group are those of its tasks, in order.

    `failures`: key → each failed cell that was asked for.
    """

    def __init__(self, planned: Sequence[PlannedCell], store: CellStore) -> None:
        self._store = store
        self._planned = {(cell.row.curve, cell.rank, cell.task.name): cell for cell in planned}
        self._seen: dict[str, Cell | str] = {}
        self._lacking: dict[str, tuple[PlannedCell, int]] = {}
        self.failures: dict[str, FailedCell] = {}

    def incomplete(self) -> list[tuple[PlannedCell, int]]:
        """Cells that lack documents, with the number that they have; reads all cells."""
        for cell in self._planned.values():
            self._read(cell)
        return list(self._lacking.values())

    def engine(self) -> EngineCounts:
        """What the cells cost together."""
        cells = (cell for cell in self._seen.values() if not isinstance(cell, str))
        return sum((cell.engine for cell in cells), EngineCounts())

    def _read(self, planned: PlannedCell) -> Cell | str:
        key = planned.identity.key
        if key not in self._seen:
            stored = self._store.read(key, planned.documents, planned.scoring)
            if stored is not None and not stored.missing:
                self._seen[key] = stored
            elif (record := self._store.failure(key)) is not None:
                self._seen[key] = record.reason
            else:
                self._seen[key] = "not evaluated"
                self._lacking[key] = planned, len(stored.documents) if stored else 0
        return self._seen[key]

    def fetch(
        self, task: BuiltTask, variant: Variant | None, rank: int
    ) -> list[tuple[BuiltTask, Cell | str]]:
        """Each task that this one consists of, with its cell (None: the base's) or why not."""
        cells = []
        for leaf in task.members or (task,):
            planned = self._planned[variant.label if variant else None, rank, leaf.name]
            cell, key = self._read(planned), planned.identity.key
            if isinstance(cell, str) and key not in self._lacking:
                self.failures[key] = failed_cell(planned, cell)
            cells.append((leaf, cell))
        return cells

    def _parts(
        self, task: BuiltTask, variant: Variant | None, rank: int
    ) -> list[NDArray[np.float64]] | str:
        """The scores of each cell under the task's metric, or the reason for their absence."""
        parts = []
        for leaf, cell in self.fetch(task, variant, rank):
            if isinstance(cell, str):
                return cell
            column = cell.scores(task.metric)
            if column is None:
                unfit = " (outcomes not right or wrong)" if cell.samples else ""
                return f"the cell holds no {task.metric}{unfit}"
            parts.append(np.asarray(column[: leaf.n_docs], dtype=np.float64))
        return parts

    def scores(
        self, task: BuiltTask, variant: Variant | None, rank: int
    ) -> NDArray[np.float64] | str:
        """(n,) per-document scores under the task's metric, or the reason for their absence."""
        parts = self._parts(task, variant, rank)
        return parts if isinstance(parts, str) else pooled(parts, drawn=task.drawn)

    def curve(self, task: BuiltTask, variant: Variant) -> tuple[Curve | None, dict[int, str]]:
        """The curve of the ranks that have scores, and why the others have none."""
        columns = {rank: self._parts(task, variant, rank) for rank in variant.ranks}
        known = {rank: parts for rank, parts in columns.items() if not isinstance(parts, str)}
        missing = {rank: parts for rank, parts in columns.items() if isinstance(parts, str)}
        if not known:
            return None, missing
        curve = pooled_curve(
            tuple(known),
            list(known.values()),
            drawn=task.drawn,
            adapter=variant.name,
            task=task.name,
            basis=variant.basis,
            rescale=variant.rescale,
            strata=task.strata,
            clusters=task.clusters,
        )
        return curve, missing

    def sampling(
        self, task: BuiltTask, variant: Variant, ranks: Sequence[int]
    ) -> SamplingRecord | UnsetType:
        """How much the samples of a document vary, over AURAC of these ranks."""
        weights = quadrature_weights(ranks, "log2") if len(ranks) > 1 else np.ones(len(ranks))
        total: list[NDArray[np.float64]] = []
        for weight, rank in zip(weights, ranks, strict=True):
            parts = []
            for leaf, cell in self.fetch(task, variant, rank):
                rows = None if isinstance(cell, str) else cell.samples.get(task.metric)
                if rows is None:
                    return UNSET
                parts.append(weight * np.asarray(rows[: leaf.n_docs], dtype=np.float64))
            total.append(pooled(parts, drawn=task.drawn))  # the spread within a draw
        if not total or len(total[0]) < 2:
            return UNSET
        spread = spread_of_samples(np.sum(total, axis=0))
        return msgspec.convert(spread, SamplingRecord, from_attributes=True)

    def near_ties(self, task: BuiltTask, variant: Variant, rank: int) -> int | None:
        """Documents with a decision within rounding; None where that was not counted."""
        cells = [cell for _, cell in self.fetch(task, variant, rank)]
        ties = [None if isinstance(cell, str) else cell.engine.near_ties for cell in cells]
        total = sum(count or 0 for count in ties)
        return None if None in ties else total // (len(ties) if task.drawn else 1)

    def paths(self, task: BuiltTask, variant: Variant | None, rank: int) -> str | list[str] | None:
        """The file behind one point; a group's files in the order of its members."""
        paths = []
        for _, cell in self.fetch(task, variant, rank):
            if isinstance(cell, str):
                return None
            path = self._store.path(cell.identity.key)
            paths.append(path.relative_to(self._store.run_folder).as_posix())
        return paths if task.members else paths[0]


def _curve(
    variant: Variant, task: BuiltTask, reader: CellReader, base: str, whole: BuiltTask
) -> CurveRecord:
    """A variant on a task, which may be the first documents of the `whole`."""
    curve, missing = reader.curve(task, variant)
    baseline, amounts = reader.scores(task, None, 0), variant.amounts()
    accuracy, low, high = _points(curve, variant.ranks)
    record = CurveRecord(
        id=variant.label,
        adapter=variant.name,
        method=variant.adapter.method,
        base=base,
        task=task.name,
        metric=task.metric,
        basis=variant.basis,
        rescale=variant.rescale,
        default=variant.role == "default",
        role=variant.role,
        ranks=list(variant.ranks),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        missing=missing,
        baseline=None if isinstance(baseline, str) else float(baseline.mean()),
        baseline_reason=baseline if isinstance(baseline, str) else None,
        trained_rank=variant.adapter.rank,
        parameters=[parameters for parameters, _ in amounts],
        bytes=[size for _, size in amounts],
        fit_factors=dict(variant.fit_factors) if variant.fit_factors else None,
        n_docs=task.n_docs,
        documents=UNSET
        if task.n_docs == whole.n_docs
        else {leaf.name: leaf.n_docs for leaf in task.members or (task,)},
        near_ties=[reader.near_ties(task, variant, rank) for rank in variant.ranks],
        cells={rank: reader.paths(task, variant, rank) for rank in variant.ranks},
        baseline_cell=reader.paths(task, None, 0),
        sampling=reader.sampling(task, variant, curve.ranks if curve else ()),
        fewshot_draws=_drawn(curve),
    )
    return _scored(record, curve)


def _drawn(curve: Curve | None) -> DrawsRecord | UnsetType:
    """How much the draws of the few-shot examples vary, on AURAC over the log2 axis."""
    if curve is None or curve.draws is None or len(curve.ranks) < 2:
        return UNSET
    group = gather([curve])[0]
    draws = group.drawn_areas("log2")
    parts = components([group.areas("log2")], [1], group.layout, draws=draws)
    (drawn,) = parts.draws
    total = sum(variance for variance, _ in parts.terms())
    return DrawsRecord(
        draws=drawn.seeds,
        scores=[float(mean) for mean in drawn.seed_means],
        share=drawn.between / total if total > 0 else None,
    )


def _points(curve: Curve | None, ranks: Sequence[int]) -> list[list[float | None]]:
    """Accuracies and both ends of pointwise 95 % intervals by rank, None where there is no cell."""
    known: dict[int, tuple[float, float | None, float | None]] = {}
    if curve is not None and curve.outcomes is not None:
        layout, draws = layout_of(curve), curve.draws
        for k, (rank, row) in enumerate(zip(curve.ranks, curve.outcomes, strict=True)):
            drawn = None if draws is None else draws[:, k]
            mean = mean_of_seeds(row[None], layout, 0.95, drawn)
            known[rank] = mean.value, mean.low, mean.high
    rows = [known.get(rank, (None, None, None)) for rank in ranks]
    return [[row[k] for row in rows] for k in range(3)]


def _scored(record: CurveRecord, curve: Curve | None) -> CurveRecord:
    """The record with AURAC, or with the reason why there is none."""
    if record.missing:
        ranks = ", ".join(map(str, record.missing))
        reason = f"no accuracy at rank {ranks}: a missing rank is never imputed"
        return replaced(record, score_reason=reason)
    if curve is None or len(curve.ranks) < 2:
        return replaced(record, score_reason="an area needs at least two ranks")
    row = score_curve(curve)
    if row.log2 is None or row.linear is None or row.mean is None:
        return replaced(record, score_reason=row.reason)
    log2, linear = (quadrature_weights(curve.ranks, axis).tolist() for axis in ("log2", "linear"))
    return replaced(
        record,
        score=Areas(log2=area_record(row.log2), linear=area_record(row.linear), mean=row.mean),
        score_method=row.log2.method,
        score_notes=list(row.notes),
        weights=AxisWeights(log2=log2, linear=linear),
        drops=list(row.drops),
    )


def _adapter(name: str, variant: Variant) -> AdapterRecord:
    """An adapter under the name that it has in the run."""
    adapter = variant.adapter
    nesting, terms = adapter.nesting, licence(adapter.source)
    return AdapterRecord(
        name=name,
        path=_shown_path(adapter.source),
        format=adapter.format,
        sha256=adapter.sha256,
        method=adapter.method,
        rule=adapter.rule,
        alpha=adapter.alpha,
        seed=adapter.seed,
        nested_ranks=list(nesting.ranks) if nesting else None,
        weights=list(nesting.weights) if nesting else None,
        update=nesting.update if nesting else None,
        trained_rank=adapter.rank,
        ranks_of_modules=list(adapter.ranks),
        modules=len(adapter.modules),
        parameters=adapter.parameters(adapter.rank),
        bytes=adapter.bytes(adapter.rank),
        notes=list(adapter.notes),
        recipe=dict(adapter.recipe) if adapter.recipe else None,
        derived=adapter.derived or UNSET,
        licence=terms.licence or UNSET,
        licence_name=terms.name or UNSET,
        licence_link=terms.link or UNSET,
    )


def _shown_path(source: Path | None) -> str | None:
    """Relative where it lies below the working folder, so that results can be shared."""
    if source is None:
        return None
    place, here = source.resolve(), Path.cwd()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(source)


def task_record(folder: Path, task: BuiltTask, session: Session) -> TaskRecord:
    """A task, with its documents and prompts written beside the cells."""
    documents = Path("documents") / f"{task.name.replace('/', '_')}-{task.prompts_sha256[:16]}.json"
    write_json(folder / documents, readable(task).to_dict())
    return msgspec.structs.replace(
        task.identity(),
        metric=task.metric,
        metrics=list(task.integrable),
        cluster=task.cluster,
        limit=limit_of(task.group or task.name, session.settings),
        members=[member.name for member in task.members],
        drawn=True if task.drawn else UNSET,
        group=task.group,
        documents=documents.as_posix(),
        requests=write_requests(folder, task, session.outline),
    )
