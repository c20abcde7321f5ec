"""A run folder: its cells, and the curves with their documents.

A cell's file may hold more documents than the results that name it: it grows. Which of them are
meant, and in which order, stands in the file of the task's documents.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve, CurveFields, DocumentLabels
from aurac.curves.metrics import WantedMetrics
from aurac.curves.names import common_name
from aurac.errors import AuracError, CurveError, RunFolderError, first_line
from aurac.files import Json, sha256_json
from aurac.records.cell import DocumentKey, changed_parts, differences, read_record
from aurac.records.results_file import (
    RESULTS_FILE,
    AdapterRecord,
    CurveRecord,
    Results,
    TaskDocuments,
    again,
)
from aurac.records.store import Cell, read_cell

logger = logging.getLogger(__name__)

_SAME = 1e-6  # accuracies nearer than this are one accuracy, stored twice

Groups = dict[str, list[str]]
# Of a recipe, what decides which examples each optimizer step sees. `batch_size` is that of a step,
# however it is accumulated.
_DATA = (
    *("base", "task", "data", "prompt", "prompt_without", "target", "documents", "max_tokens"),
    *("steps", "epochs", "batch_size"),
)


def inside(folder: Path, relative: str) -> Path:
    """The path of a file that a run names, which has to lie in the run folder."""
    path = PurePath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise RunFolderError(f"{relative} is outside {folder}")
    return folder / path


def _read_stored(folder: Path, file: str, documents: Sequence[DocumentKey] | None) -> Cell:
    """A cell with all the documents that were asked for; refused where it lacks some of them."""
    path, fix = inside(folder, file), again(folder, ": it computes what is missing")
    try:
        cell = read_cell(path, documents)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({first_line(error)})", fix=fix) from error
    if cell is None or (documents is None and cell.damaged):
        raise RunFolderError(f"{path} is missing or damaged", fix=fix)
    if cell.missing:
        raise RunFolderError(
            f"{path} lacks {len(cell.missing)} of {len(documents or ())} documents", fix=fix
        )
    return cell


class StoredCells:
    """Reads the cells of a run folder, a group's members one after the other."""

    def __init__(self, folder: Path, results: Results) -> None:
        self.folder, self._results = folder, results
        self._documents: dict[str, TaskDocuments | None] = {}

    def read(self, curve: CurveRecord, rank: int) -> list[Cell]:
        """The cells of one point of a curve (0: its base): one, or one for each member of a group.

        Raises:
            RunFolderError: A cell is outside the folder, missing or damaged.
        """
        paths, names = curve.files(rank), self.members(curve)
        if len(names) != len(paths):  # a results.json made by hand may name no members
            names = [""] * len(paths)
        return [
            _read_stored(self.folder, path, self._keys(name, curve))
            for path, name in zip(paths, names, strict=True)
        ]

    def drawn(self, task: str) -> bool:
        """Whether its cells are the same documents under several draws of the examples."""
        return self._results.task(task).drawn is True

    def members(self, curve: CurveRecord) -> list[str]:
        """The tasks whose cells a curve is made of."""
        return list(curve.documents or self._results.task(curve.task).members or [curve.task])

    def _keys(self, task: str, curve: CurveRecord) -> list[DocumentKey] | None:
        """The documents of a curve; None where they were not kept."""
        content, counts = self.documents(task), curve.documents
        keys = content.keys if content else None
        return keys[: counts[task]] if keys and counts else keys

    def documents(self, task: str) -> TaskDocuments | None:
        """What a run kept of a task's documents, read once; None where it kept nothing."""
        if task not in self._documents:
            where = self._results.task(task).documents
            path = inside(self.folder, where) if where else None
            fix = again(self.folder)
            self._documents[task] = read_record(path, TaskDocuments, fix) if path else None
        return self._documents[task]


def read_run(folder: Path, wanted: WantedMetrics | None = None) -> tuple[list[Curve], Groups]:
    """Curves of a run, an adapter's default truncation first, and its recipe groups.

    `wanted` are other metrics that the cells hold.

    Raises:
        RunFolderError: Not JSON, another schema, or a cell that is missing or damaged.
    """
    results = Results.read(folder)
    reader = CurveReader(folder, results)
    rows = sorted(results.curves, key=lambda row: not row.default)
    metrics = _metrics(results, wanted or WantedMetrics(), reader.cells)
    # the rows of pass@k are those of a task under another metric
    rows = [r for r in rows if not (r.task in metrics and r.metric.startswith("pass@"))]
    chosen = [(row, metrics.get(row.task, row.metric)) for row in rows if _has_a_point(row)]
    curves = [reader.curve(row, metric) for row, metric in chosen]
    if not curves:
        raise RunFolderError(f"{folder / RESULTS_FILE} holds no curves")
    there = {curve.adapter for curve in curves}
    every = recipe_groups(results.adapters, results.groups).items()
    left = {name: [member for member in members if member in there] for name, members in every}
    return curves, {name: members for name, members in left.items() if members}


def _metrics(results: Results, wanted: WantedMetrics, cells: StoredCells) -> dict[str, str]:
    """Task → metric, of the tasks that are read under the one that was asked for."""
    if not wanted.asked:
        return {}
    there: dict[str, set[str]] = {}
    for row in results.curves:
        known = there.setdefault(row.task, set(results.task(row.task).metrics))
        if not known:  # of a results.json made by hand
            known |= {key for cell in cells.read(row, row.ranks[0]) for key in cell.metrics}
        known.add(row.metric)
    found = {task: wanted.of(task, keys) for task, keys in there.items()}
    return {task: metric for task, metric in found.items() if metric is not None}


def _has_a_point(row: CurveRecord) -> bool:
    """Whether a curve has an accuracy at any rank; one without is left out, and that is said."""
    if any(value is not None for value in row.accuracy):
        return True
    why = next(iter(row.missing.values()), "no reason recorded")
    logger.warning(
        "%s on %s has no accuracy at any rank (%s) and is left out", row.id, row.task, why
    )
    return False


class CurveReader:
    """Makes curves of a run's cells; equal labels become the same tuple, to be joined quickly."""

    def __init__(self, folder: Path, results: Results) -> None:
        self._results, self.cells = results, StoredCells(folder, results)
        for row in results.curves:  # whose numbers may have been changed by hand
            try:
                if any(value is not None for value in row.accuracy):
                    as_curve(row)
            except CurveError as error:
                given = f"{folder / RESULTS_FILE}, {row.id} on {row.task}: {error.given}"
                fix = error.fix or again(folder)
                raise RunFolderError(given, expected=error.expected, fix=fix) from error
        self._trained = {
            adapter.name: {"seed": adapter.seed, "data_order": data_order(adapter.recipe)}
            for adapter in results.adapters
        }
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._scorings: dict[tuple[str, int], tuple[str, str]] = {}
        self._bases: dict[tuple[str, ...], tuple[list[str], NDArray[np.float64]] | None] = {}

    def curve(self, row: CurveRecord, metric: str) -> Curve:
        """The curve with its documents, or without where not every rank has cells.

        Raises:
            RunFolderError: A cell is outside the folder, missing, damaged, or lacks the metric; or
                the cells were not made alike.
        """
        trained = self._trained.get(row.adapter, {})
        plain = as_curve({**row.to_dict(), **trained, "metric": metric})
        if not all(row.files(rank) for rank in plain.ranks):
            if metric != row.metric:
                raise RunFolderError(
                    f"{row.id} on {row.task} keeps no documents to score by {metric}",
                    expected=row.metric,
                )
            return plain
        points = {rank: self.cells.read(row, rank) for rank in plain.ranks}
        _check_alike(plain.label, points)
        self._check_scoring(row, plain.label, points)
        parts = [_scores(row.task, cells, metric) for cells in points.values()]
        drawn = self.cells.drawn(row.task)
        labels = self._labels(row, points[plain.ranks[0]][: 1 if drawn else None])
        count = max(len(labels["doc_ids"] or ()), 1)
        known = plain.baseline if metric == row.metric else None  # it is that of the row's metric
        base = self._base(row, metric, points[plain.ranks[0]])
        if base is not None and known is not None and abs(base.mean() - known) > _SAME:
            base = None
        try:
            made = pooled_curve(plain.ranks, parts, drawn=drawn)
            return replace(
                plain,
                accuracy=made.accuracy,
                outcomes=made.outcomes,
                draws=made.draws,
                intervals={},
                prompts=self._results.task(row.task).prompts_sha256,
                baseline=known,
                base_scores=base,
                seconds={r: sum(cell.seconds for cell in points[r]) / count for r in points},
                **labels,
            )
        except AuracError as error:
            raise RunFolderError(f"the cells of {plain.label}: {error.text}") from error

    def _check_scoring(
        self, row: CurveRecord, label: str, points: Mapping[int, Sequence[Cell]]
    ) -> None:
        """Refuse cells of a task that were scored otherwise than those before them."""
        for at, cell in ((at, cell) for cells in points.values() for at, cell in enumerate(cells)):
            if not cell.scoring:
                continue
            first, whose = self._scorings.setdefault((row.task, at), (cell.scoring, label))
            if parts := changed_parts(first, cell.scoring):
                raise RunFolderError(
                    f"the cells of {label} on {row.task} were scored otherwise than those of "
                    f"{whose} ({', '.join(parts)} of the task changed)",
                    fix=again(self.cells.folder, ": it computes the older ones anew"),
                )

    def _base(
        self, row: CurveRecord, metric: str, cells: Sequence[Cell]
    ) -> NDArray[np.float64] | None:
        """(n,) scores of the base on the documents of `cells`; None where they were not kept."""
        key = (metric, row.task, *row.files(0))
        if key not in self._bases:
            self._bases[key] = None
            with contextlib.suppress(RunFolderError):  # the curve itself does not need it
                if read := self.cells.read(row, 0):
                    parts = _scores(row.task, read, metric)
                    scores = pooled(parts, drawn=self.cells.drawn(row.task))
                    self._bases[key] = [doc for cell in read for doc in cell.doc_ids], scores
        known = self._bases[key]
        ids = [doc for cell in cells for doc in cell.doc_ids]
        return known[1] if known is not None and known[0] == ids else None

    def _labels(self, row: CurveRecord, cells: Sequence[Cell]) -> DocumentLabels:
        """What is known of the documents of cells that stand one after the other."""
        several = len(cells) > 1
        ids = [f"{i}:{d.id}" if several else d.id for i, c in enumerate(cells) for d in c.documents]
        members = self.cells.members(row)
        if len(members) != len(cells):  # a results.json made by hand may name no members
            members = [str(i) for i in range(len(cells))]
        strata = [name for name, cell in zip(members, cells, strict=True) for _ in cell.documents]
        return {
            "doc_ids": self._same(ids),
            "doc_hashes": self._same([d.content for cell in cells for d in cell.documents]),
            "strata": self._same(strata) if several else None,  # a group's members are fixed
            "clusters": self._clusters(row.task, ids),
        }

    def _same(self, labels: Sequence[str]) -> tuple[str, ...]:
        return self._seen.setdefault(tuple(labels), tuple(labels))

    def _clusters(self, task: str, doc_ids: Sequence[str]) -> tuple[str, ...] | None:
        """What the documents of a task share; None where it was not clustered.

        The labels stand with the documents, not in the cells: they change no answer, so that a
        finished run can be clustered by another field without computing anything again.
        """
        content = self.cells.documents(task) if self._results.task(task).cluster else None
        if content is None:
            return None
        labels = dict(zip(content.doc_ids, content.clusters or (), strict=True))
        return self._same([labels[doc] for doc in doc_ids])


def pooled(parts: Sequence[NDArray[np.float64]], *, drawn: bool) -> NDArray[np.float64]:
    """(n,) scores of the tasks of a group one after the other; of draws of examples their mean."""
    return np.mean(parts, axis=0) if drawn else np.concatenate(parts)


def pooled_curve(
    ranks: Sequence[int],
    parts: Sequence[Sequence[NDArray[np.float64]]],
    *,
    drawn: bool,
    **labels: Unpack[CurveFields],
) -> Curve:
    """The curve of the scores of each cell at each rank; `labels` are fields of `Curve`."""
    outcomes = np.stack([pooled(part, drawn=drawn) for part in parts])
    if drawn:
        labels["draws"] = np.stack([np.stack(part) for part in parts], axis=1)
    return Curve.from_outcomes(ranks, outcomes, **labels)


def _scores(task: str, cells: Sequence[Cell], metric: str) -> list[NDArray[np.float64]]:
    """(n,) scores of each cell."""
    columns = [cell.scores(metric) for cell in cells]
    for cell, column in zip(cells, columns, strict=True):
        if column is None:
            raise RunFolderError(
                f"a cell of {task} holds no metric {metric!r}",
                expected=f"one of {', '.join(cell.metrics) or 'none'}",
            )
    return [np.asarray(column, dtype=np.float64) for column in columns]


def _check_alike(label: str, points: Mapping[int, Sequence[Cell]]) -> None:
    """Cells of one curve were made alike: same base, documents, prompts, dtype, engine."""
    first_rank, first = next(iter(points.items()))
    for rank, cells in points.items():
        for cell, other in zip(first, cells, strict=True):
            if cell.doc_ids != other.doc_ids:
                raise RunFolderError(
                    f"the cells of {label} have different documents at ranks {first_rank} and "
                    f"{rank}"
                )
            unlike = differences(cell.identity.to_dict(), other.identity.to_dict())
            if unlike:
                raise RunFolderError(
                    f"the cells of {label} at ranks {first_rank} and {rank} differ in "
                    f"{', '.join(unlike)}: they make no curve"
                )


def data_order(recipe: Mapping[str, Json] | None) -> str | None:
    """`Curve.data_order` of a recorded recipe; None where it does not say all."""
    if recipe is None or not all(name in recipe for name in _DATA):
        return None
    return sha256_json({name: recipe[name] for name in _DATA})


def recipe_groups(
    adapters: Sequence[AdapterRecord], named: Mapping[str, Sequence[str]] | None = None
) -> Groups:
    """``group -> adapters`` whose recorded recipes differ in the seed only; `named` come before."""
    return regrouped(_recorded_groups(adapters), named or {})


def regrouped(known: Mapping[str, Sequence[str]], named: Mapping[str, Sequence[str]]) -> Groups:
    """Groups, with those in `named` in the place of any that share a name or a member with them."""
    taken = {member for members in named.values() for member in members}
    kept = {n: list(m) for n, m in known.items() if not taken & set(m) and n not in named}
    return kept | {name: list(members) for name, members in named.items()}


def _recorded_groups(adapters: Sequence[AdapterRecord]) -> Groups:
    same: dict[str, list[AdapterRecord]] = {}
    for adapter in adapters:
        if adapter.recipe and adapter.seed is not None:
            recipe = {k: v for k, v in adapter.recipe.items() if k != "seed"}
            key = json.dumps([adapter.method, recipe], sort_keys=True)
            same.setdefault(key, []).append(adapter)
    groups: Groups = {}
    for members in same.values():
        names = [member.name for member in members]
        if len(names) > 1 and len({member.seed for member in members}) == len(names):
            groups[common_name(names, taken=groups)] = names
    return groups
