"""A run folder (results.json and cells/) → curves with their documents."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.errors import AuracError, RunFolderError
from aurac.readers.cells import StoredCells, inside
from aurac.runs.schema import RESULTS_FILE, Results, TaskDocuments, differences, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aurac.runs.schema import AdapterRecord, CurveRecord

logger = logging.getLogger(__name__)

Groups = dict[str, list[str]]


def read_run(folder: Path, metric: str | None = None) -> tuple[list[Curve], Groups]:
    """Curves of a run, an adapter's default truncation first, and its arms of several seeds.

    Args:
        folder: Holds ``results.json`` of schema 1 and the cells it names.
        metric: Another of the metrics that the cells hold.

    Raises:
        RunFolderError: Not JSON, another schema, or a cell that is missing or damaged.
    """
    results = Results.read(folder)
    rows = sorted(results.curves, key=lambda row: not row.default)
    reader = CellReader(StoredCells(folder, results), _clusters(folder, results))
    seeds = {adapter.name: adapter.seed for adapter in results.adapters}
    curves = [
        _curve(row, reader, metric, results.task(row.task).prompts_sha256, seeds.get(row.adapter))
        for row in rows
        if _has_a_point(row)
    ]
    if not curves:
        raise RunFolderError(f"{folder / RESULTS_FILE} holds no curves")
    return curves, arms_of(results.adapters, results.groups)


def _has_a_point(row: CurveRecord) -> bool:
    """Whether a curve has an accuracy at any rank; one without is left out, and that is said."""
    if any(value is not None for value in row.accuracy):
        return True
    why = next(iter(row.missing.values()), "no reason recorded")
    logger.warning(
        "%s on %s has no accuracy at any rank (%s) and is left out", row.id, row.task, why
    )
    return False


def _clusters(folder: Path, results: Results) -> dict[str, dict[str, str]]:
    """Task → document → what it shares with others, of the tasks that were clustered.

    The labels stand with the documents, not in the cells: they change no answer, so that a finished
    run can be clustered by another field without computing anything again.
    """
    labels = {}
    for task in results.tasks:
        if task.cluster and task.documents:
            content = read_record(inside(folder, task.documents), TaskDocuments)
            labels[task.name] = dict(zip(content.doc_ids, content.clusters or (), strict=True))
    return labels


class CellReader:
    """Scores and labels of cells; equal labels become the same tuple, to be joined quickly."""

    def __init__(self, cells: StoredCells, clusters: Mapping[str, Mapping[str, str]]) -> None:
        self._cells, self._clusters = cells, clusters
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, task: str, paths: Sequence[str], metric: str) -> dict[str, Any]:
        """Scores and labels of one point; of a group's members one after the other.

        Raises:
            RunFolderError: A cell is outside the folder, missing, damaged, or lacks the metric.
        """
        parts = self._cells.read(task, paths)
        several = len(parts) > 1
        labels: dict[str, list[str]] = {"doc_ids": [], "doc_hashes": [], "strata": []}
        for i, part in enumerate(parts):
            if metric not in part.metrics:
                raise RunFolderError(
                    f"a cell of {task} holds no metric {metric!r}",
                    expected=f"one of {', '.join(part.metrics) or 'none'}",
                )
            prefix = f"{i}:" if several else ""
            labels["doc_ids"] += [f"{prefix}{document.id}" for document in part.documents]
            labels["doc_hashes"] += [document.content for document in part.documents]
            labels["strata"] += [str(i)] * len(part.documents)  # a group's members are fixed
        return {
            "seconds": sum(part.seconds for part in parts) / max(len(labels["doc_ids"]), 1),
            "scores": np.concatenate([np.asarray(part.metrics[metric]) for part in parts]),
            "identities": [part.identity.to_dict() for part in parts],
            "doc_ids": self._same(labels["doc_ids"]),
            "doc_hashes": self._same(labels["doc_hashes"]),
            "strata": self._same(labels["strata"]) if several else None,
        }

    def _same(self, labels: Sequence[str]) -> tuple[str, ...]:
        return self._seen.setdefault(tuple(labels), tuple(labels))

    def clusters(self, task: str, doc_ids: Sequence[str]) -> tuple[str, ...] | None:
        """What the documents of a task share, the same tuple each time; None where nothing."""
        labels = self._clusters.get(task)
        if labels is None:
            return None
        found = tuple(labels[str(doc)] for doc in doc_ids)
        return self._seen.setdefault(found, found)


def _check_alike(label: str, points: Mapping[int, Mapping[str, Any]]) -> None:
    """Cells of one curve were made alike: same base, documents, prompts, dtype, engine."""
    first_rank, first = next(iter(points.items()))
    for rank, point in points.items():
        for one, other in zip(first["identities"], point["identities"], strict=True):
            unlike = differences(one, other)
            if unlike:
                raise RunFolderError(
                    f"the cells of {label} at ranks {first_rank} and {rank} differ in "
                    f"{', '.join(unlike)}: they make no curve"
                )


def _curve(
    row: CurveRecord, reader: CellReader, metric: str | None, prompts: str | None, seed: int | None
) -> Curve:
    chosen = metric or row.metric
    plain = as_curve({**row.to_dict(), "seed": seed, "metric": chosen})
    if not all(row.files(rank) for rank in plain.ranks):
        return plain
    points = {rank: reader.read(row.task, row.files(rank), chosen) for rank in plain.ranks}
    first = points[plain.ranks[0]]
    for rank, point in points.items():
        if point["doc_ids"] != first["doc_ids"]:
            raise RunFolderError(
                f"the cells of {plain.label} have different documents at ranks {plain.ranks[0]} "
                f"and {rank}"
            )
    _check_alike(plain.label, points)
    try:
        return Curve.from_outcomes(
            plain.ranks,
            np.stack([point["scores"] for point in points.values()]),
            doc_ids=first["doc_ids"],
            doc_hashes=first["doc_hashes"],
            strata=first["strata"],
            clusters=reader.clusters(row.task, first["doc_ids"]),
            adapter=plain.adapter,
            task=plain.task,
            metric=chosen,
            method=plain.method,
            base=plain.base,
            basis=plain.basis,
            rescale=plain.rescale,
            seed=seed,
            prompts=prompts,
            baseline=plain.baseline,
            missing=plain.missing,
            sizes=plain.sizes,
            seconds={rank: point["seconds"] for rank, point in points.items()},
            role=plain.role,
        )
    except AuracError as error:
        raise RunFolderError(f"the cells of {plain.label}: {error}") from error


def arms_of(
    adapters: Sequence[AdapterRecord], said: Mapping[str, Sequence[str]] | None = None
) -> Groups:
    """Adapters that are seeds of one recipe: ``arm name -> adapters``.

    Args:
        adapters: Of ``results.json``; those whose recorded recipes differ in the seed only are one
            arm.
        said: The arms that were named when the run was made; they come before what is recorded.
    """
    return regrouped(_recorded_arms(adapters), said or {})


def regrouped(known: Mapping[str, Sequence[str]], said: Mapping[str, Sequence[str]]) -> Groups:
    """Arms with those in `said` in the place of any that share a name or a member with them."""
    taken = {member for members in said.values() for member in members}
    kept = {n: list(m) for n, m in known.items() if not taken & set(m) and n not in said}
    return kept | {name: list(members) for name, members in said.items()}


def _recorded_arms(adapters: Sequence[AdapterRecord]) -> Groups:
    same: dict[str, list[AdapterRecord]] = {}
    for adapter in adapters:
        if adapter.recipe and adapter.seed is not None:
            recipe = {k: v for k, v in adapter.recipe.items() if k != "seed"}
            key = json.dumps([adapter.method, recipe], sort_keys=True)
            same.setdefault(key, []).append(adapter)
    groups: Groups = {}
    for members in same.values():
        names = [member.name for member in members]
        if len(names) < 2 or len({member.seed for member in members}) < len(names):
            continue
        groups[_common_name(names, taken=groups)] = names
    return groups


def _common_name(names: Sequence[str], taken: Groups) -> str:
    first, last = min(names), max(names)
    same = next(
        (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first)
    )
    shared = first[:same].rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)
