"""`results.json`, schema 1: the curves of a run, their scores, and what produced them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET, UnsetType

from aurac.analysis.analyse import score_curve
from aurac.curves.area import AXES, quadrature_weights
from aurac.curves.curve import Curve
from aurac.records.cell import EngineCounts
from aurac.records.schema import (
    RESULTS_SCHEMA,
    AdapterRecord,
    Area,
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
from aurac.stats.groups import gather
from aurac.stats.mean import layout_of, spread_of_samples
from aurac.stats.seeds import components, mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from aurac.records.store import CellStore
    from aurac.runs.plan import PlannedCell, Variant
    from aurac.runs.session import Session
    from aurac.stats.mean import Estimate
    from aurac.tasks.task import BuiltTask


def gathered(
    session: Session, cells: Sequence[PlannedCell], store: CellStore
) -> tuple[Results, list[tuple[PlannedCell, int]]]:
    """The content of `results.json` but for tasks and provenance; each cell is read once.

    Beside it the cells that lack documents, with the number that they have.
    """
    from importlib.metadata import version

    reader = StoredPoints(cells, store)
    variants, base = session.variants, session.outline.name
    draws = {draw.name for task in session.built if task.drawn for draw in task.members}
    curves = [
        _curve(v, TaskCells(part, reader.fetch), base, whole=task)
        for task in session.built
        for v in variants
        if task.name not in draws
        if (part := session.task_of(task, v)) is not None
    ]
    results = Results(
        schema=RESULTS_SCHEMA,
        aurac=version("aurac"),
        curves=curves,
        adapters=adapter_records(session),
        groups={name: list(members) for name, members in session.settings.groups.items()},
        failures=reader.failures,
        engine=EngineTotals(
            **{n: getattr(reader.engine, n) for n in EngineTotals.__struct_fields__}
        ),
    )
    return results, reader.incomplete


def adapter_records(session: Session) -> list[AdapterRecord]:
    """What is known of each adapter."""
    first = {variant.name: variant for variant in reversed(session.variants)}
    return [_adapter(name, first[name]) for name in dict.fromkeys(v.name for v in session.variants)]


class StoredPoints:
    """Reads each cell once, and keeps what curves are made of."""

    def __init__(self, cells: Sequence[PlannedCell], store: CellStore) -> None:
        self._store = store
        self._cells = {(cell.row.curve, cell.rank, cell.task.name): cell for cell in cells}
        self._seen: dict[str, Point | str] = {}
        self.failures: list[FailedCell] = []
        self.incomplete: list[tuple[PlannedCell, int]] = []
        self.engine = EngineCounts()

    @classmethod
    def of(
        cls, cells: Sequence[PlannedCell], store: CellStore
    ) -> tuple[StoredPoints, list[tuple[PlannedCell, int]]]:
        """All of the cells, and those that lack documents, with the number that they have."""
        points = cls(cells, store)
        for cell in cells:
            points.fetch(cell.variant, cell.rank, cell.task)
        return points, points.incomplete

    def fetch(self, variant: Variant | None, rank: int, leaf: BuiltTask) -> Point | str:
        """The point of a curve (None: the base) at a rank, or the reason why there is none."""
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
            return Point(stored.scores, stored.samples, stored.engine, path.as_posix())
        record = self._store.failure(key)
        if record is None:
            self.incomplete.append((cell, len(stored.documents) if stored else 0))
            return "not evaluated"
        self.failures.append(failed_cell(cell, record.reason))
        return record.reason


def failed_cell(cell: PlannedCell, reason: str) -> FailedCell:
    """A cell that could not be computed."""
    labels = {"adapter": cell.variant.name, "curve": cell.variant.label} if cell.variant else {}
    return FailedCell(**labels, task=cell.task.name, rank=cell.rank, reason=reason)


@dataclass(frozen=True)
class Point:
    """What `results.json` needs of a stored cell, see `Cell`; its path is in the run folder."""

    scores: Callable[[str], list[float] | None]
    samples: Mapping[str, Sequence[Sequence[float]]]
    engine: EngineCounts
    path: str


@dataclass(frozen=True)
class TaskCells:
    """Reads the cells of one task by `StoredPoints.fetch`; a group's are its members', in order."""

    task: BuiltTask
    fetch: Callable[[Variant | None, int, BuiltTask], Point | str]

    @property
    def _leaves(self) -> Sequence[BuiltTask]:
        return self.task.members or (self.task,)

    def _joined(self, parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Of the leaves one after the other; of draws of the examples their mean."""
        return np.mean(parts, axis=0) if self.task.drawn else np.concatenate(parts)

    def scores(self, variant: Variant | None, rank: int) -> NDArray[np.float64] | str:
        """(n,) per-document scores under the task's metric, or the reason for their absence."""
        parts = []
        for leaf in self._leaves:
            point = self.fetch(variant, rank, leaf)
            if isinstance(point, str):
                return point
            column = point.scores(self.task.metric)
            if column is None:
                unfit = " (outcomes not right or wrong)" if point.samples else ""
                return f"the cell holds no {self.task.metric}{unfit}"
            parts.append(np.asarray(column[: leaf.n_docs], dtype=np.float64))
        return self._joined(parts)

    def draws(self, variant: Variant, ranks: Sequence[int]) -> NDArray[np.float64] | None:
        """(N, K, n) scores under each draw of the few-shot examples; None for one draw."""
        if not self.task.drawn:
            return None
        tables = [
            TaskCells(replace(draw, metric=self.task.metric), self.fetch)
            for draw in self.task.members
        ]
        return np.array([[table.scores(variant, rank) for rank in ranks] for table in tables])

    def sampled(self, variant: Variant, ranks: Sequence[int]) -> SamplingRecord | UnsetType:
        """How much the samples of a document vary, over AURAC of these ranks."""
        weights = quadrature_weights(ranks, "log2") if len(ranks) > 1 else np.ones(len(ranks))
        total: list[NDArray[np.float64]] = []
        for weight, rank in zip(weights, ranks, strict=True):
            parts = []
            for leaf in self._leaves:
                point = self.fetch(variant, rank, leaf)
                rows = None if isinstance(point, str) else point.samples.get(self.task.metric)
                if rows is None:
                    return UNSET
                parts.append(weight * np.asarray(rows[: leaf.n_docs], dtype=np.float64))
            # of several draws the spread within a draw
            total.append(self._joined(parts))
        if not total or len(total[0]) < 2:
            return UNSET
        spread = spread_of_samples(np.sum(total, axis=0))
        return SamplingRecord(**dataclasses.asdict(spread), share=spread.share)

    def near_ties(self, variant: Variant | None, rank: int) -> int | None:
        """Documents with a decision within rounding; None where that was not counted."""
        points = [self.fetch(variant, rank, leaf) for leaf in self._leaves]
        ties = [None if isinstance(point, str) else point.engine.near_ties for point in points]
        total = sum(count or 0 for count in ties)
        return None if None in ties else total // (len(ties) if self.task.drawn else 1)

    def paths(self, variant: Variant | None, rank: int) -> str | list[str] | None:
        """The file behind one point; a group's files in the order of its members."""
        points = [self.fetch(variant, rank, leaf) for leaf in self._leaves]
        paths = [part.path for part in points if not isinstance(part, str)]
        if len(paths) < len(points):
            return None
        return paths if self.task.members else paths[0]


def _curve(variant: Variant, cells: TaskCells, base_name: str, whole: BuiltTask) -> CurveRecord:
    """A variant on a task, of which `cells` may have the first documents only."""
    task, adapter = cells.task, variant.adapter
    columns = {rank: cells.scores(variant, rank) for rank in variant.ranks}
    known = {rank: column for rank, column in columns.items() if not isinstance(column, str)}
    missing = {rank: column for rank, column in columns.items() if isinstance(column, str)}
    baseline, amounts, curve = cells.scores(None, 0), variant.amounts(), None
    counts = {leaf.name: leaf.n_docs for leaf in task.members or (task,)}
    labels: dict[str, Any] = {"adapter": variant.name, "task": task.name}
    labels |= {"basis": variant.basis, "rescale": variant.rescale}
    if known:
        outcomes, draws = np.stack(list(known.values())), cells.draws(variant, list(known))
        pooled = {"strata": task.strata, "clusters": task.clusters, "draws": draws}
        curve = Curve.from_outcomes(tuple(known), outcomes, **labels, **pooled)
    return CurveRecord(
        **labels,
        id=variant.label,
        method=adapter.method,
        base=base_name,
        metric=task.metric,
        default=variant.role == "default",
        role=variant.role,
        ranks=list(variant.ranks),
        missing=missing,
        baseline=None if isinstance(baseline, str) else float(baseline.mean()),
        baseline_reason=baseline if isinstance(baseline, str) else None,
        trained_rank=adapter.rank,
        parameters=[parameters for parameters, _ in amounts],
        bytes=[size for _, size in amounts],
        fit_factors=dict(variant.fit_factors) if variant.fit_factors else None,
        n_docs=task.n_docs,
        documents=UNSET if task.n_docs == whole.n_docs else counts,
        near_ties=[cells.near_ties(variant, rank) for rank in variant.ranks],
        cells={rank: cells.paths(variant, rank) for rank in variant.ranks},
        baseline_cell=cells.paths(None, 0),
        sampling=cells.sampled(variant, list(known)),
        fewshot_draws=_drawn(curve),
        **_points(curve, variant.ranks),
        **_score_fields(curve, missing),
    )


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


def _points(curve: Curve | None, ranks: Sequence[int]) -> dict[str, Any]:
    """Accuracy and its pointwise 95 % interval at each rank, None where there is no cell."""
    known = {}
    if curve is not None and curve.outcomes is not None:
        layout, draws = layout_of(curve), curve.draws
        means = [
            mean_of_seeds(row[None], layout, 0.95, None if draws is None else draws[:, k])
            for k, row in enumerate(curve.outcomes)
        ]
        known = {r: (m.value, m.low, m.high) for r, m in zip(curve.ranks, means, strict=True)}
    rows = [known.get(rank, (None, None, None)) for rank in ranks]
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}


def _score_fields(curve: Curve | None, missing: Mapping[int, str]) -> dict[str, Any]:
    if missing:
        ranks = ", ".join(map(str, missing))
        return {"score_reason": f"no accuracy at rank {ranks}: a missing rank is never imputed"}
    if curve is None or len(curve.ranks) < 2:
        return {"score_reason": "an area needs at least two ranks"}
    row = score_curve(curve)
    if row.log2 is None or row.linear is None or row.mean is None:
        return {"score_reason": row.reason}
    return {
        "score": Areas(log2=area_record(row.log2), linear=area_record(row.linear), mean=row.mean),
        "score_method": row.log2.method,
        "score_notes": list(row.notes),
        "weights": AxisWeights(
            **{axis: list(map(float, quadrature_weights(curve.ranks, axis))) for axis in AXES}
        ),
        "drops": list(row.drops),
    }


def area_record(estimate: Estimate) -> Area:
    """An estimate as `results.json` has it."""
    return Area(**estimate.to_dict())  # type: ignore[arg-type]


def _adapter(name: str, variant: Variant) -> AdapterRecord:
    """An adapter under the name that it has in the run."""
    adapter = variant.adapter
    nesting, same = adapter.nesting, ("format", "sha256", "method", "rule", "alpha", "seed")
    return AdapterRecord(
        name=name,
        path=_shown_path(adapter.source),
        **{field: getattr(adapter, field) for field in same},
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
    )


def _shown_path(source: Path | None) -> str | None:
    """Relative where it lies below the working folder, so that results can be shared."""
    if source is None:
        return None
    place, here = source.resolve(), Path.cwd()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(source)


def task_record(
    task: BuiltTask, limit: float | None, documents: str, requests: str | None
) -> TaskRecord:
    """A task, and the files that its documents and requests lie in."""
    return TaskRecord(
        **task.identity(),
        metric=task.metric,
        metrics=list(task.metrics),
        cluster=task.cluster,
        limit=limit,
        members=[member.name for member in task.members],
        drawn=True if task.drawn else UNSET,
        group=task.group,
        documents=documents,
        requests=requests,
    )
