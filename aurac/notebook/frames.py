"""The data frames of a run, which show every column and whole sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.curves.frames import Table
from aurac.curves.names import label_names
from aurac.records.results_file import TaskDocuments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aurac.records.reader import StoredCells
    from aurac.records.results_file import CurveRecord, Results

LABELS = ("adapter", "task", "metric", "truncation", "basis", "rescale")


def frame(columns: str, rows: Iterable[object]) -> Table:
    """A column for each word, an attribute of the rows or `name=path.to.one`; None past a None."""

    def value(row: object, path: str) -> object:
        for name in path.split("."):
            row = row if row is None else getattr(row, name)
        return row

    names = [word.partition("=") for word in columns.split()]
    cells = [[value(row, path or name) for name, _, path in names] for row in rows]
    return Table(cells, columns=[name for name, _, _ in names])


def labels_of(curve: CurveRecord) -> tuple[str | None, ...]:
    """The values of `LABELS`."""
    truncation = f"{curve.basis} · {curve.rescale}"
    return curve.adapter, curve.task, curve.metric, truncation, curve.basis, curve.rescale


def points(results: Results) -> Table:
    """A row for each curve and rank."""
    rows, called = [], label_names(curve.id for curve in results.curves)
    for curve in results.curves:
        baseline, about = [curve.baseline] * len(curve.ranks), (curve.n_docs, called[curve.id])
        accuracy = (curve.accuracy, curve.accuracy_low, curve.accuracy_high, baseline)
        for k, rank in enumerate(curve.ranks):
            numbers = (c[k] if c else None for c in (*accuracy, curve.parameters, curve.bytes))
            why = curve.missing.get(rank, "") or None
            rows.append((*labels_of(curve), curve.role, rank, *numbers, *about, why))
    names = "role rank accuracy low high baseline parameters bytes n_docs label reason"
    return Table(rows, columns=[*LABELS, *names.split()])


def samples(curve: CurveRecord, rank: int, cells: StoredCells) -> Iterator[Table]:
    """The documents of one point of a curve; of a group's members one after the other."""
    documents = cells.documents(curve.task) or TaskDocuments(doc_ids=[])
    questions = dict(zip(documents.doc_ids, documents.questions, strict=False))
    targets = dict(zip(documents.doc_ids, documents.targets, strict=False))
    members, drawn = cells.read(curve, rank) if curve.files(rank) else [], cells.drawn(curve.task)
    for number, cell in enumerate(members):
        several = len(members) > 1 and not drawn
        ids = [f"{number}:{doc}" if several else doc for doc in cell.doc_ids]
        labels = (*labels_of(curve), rank)
        columns: dict[str, object] = dict(zip((*LABELS, "rank"), labels, strict=True))
        if drawn:
            columns["fewshot_seed"] = cell.identity.fewshot_seed
        columns |= {"doc_id": ids, "score": cell.scores(curve.metric), "response": cell.responses}
        columns |= {"question": [*map(questions.get, ids)], "target": [*map(targets.get, ids)]}
        yield Table(columns)
