"""What the stored cells say about single documents: outcomes, gained and lost, answers, speed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aurac.errors import RunFolderError
from aurac.records.reader import CurveReader, StoredCells, inside
from aurac.show.escape import shorten

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.records.schema import CurveRecord, Results
    from aurac.records.store import Cell
    from aurac.show.model import CurveRow

RIGHT = 0.5
_KINDS = {"gained with the rank": 2, "lost with the rank": 1, "wrong at every rank shown": 1}
# The samples of a page: documents, characters of a text, characters of all.
_MAX_SAMPLES, _MAX_TEXT, _MAX_ALL = 200, 800, 500_000


@dataclass(frozen=True)
class Speed:
    """Tokens computed for each second inside the model, and wall seconds for each document."""

    tokens: float
    seconds: float


class _Cells(StoredCells):
    """Remembers how fast the cells that it read were computed, so that none is read for that."""

    def __init__(self, folder: Path, results: Results) -> None:
        super().__init__(folder, results)
        self.speeds: dict[tuple[str, ...], Speed | None] = {}

    def read(self, curve: CurveRecord, rank: int) -> list[Cell]:
        cells = super().read(curve, rank)
        n_docs = sum(len(cell.documents) for cell in cells)
        forward = sum(cell.engine.forward_seconds or 0.0 for cell in cells)
        tokens = sum(cell.engine.computed_tokens or 0.0 for cell in cells)
        wall = sum(cell.seconds for cell in cells)
        speed = Speed(tokens / forward, wall / n_docs) if n_docs and forward else None
        self.speeds[tuple(curve.files(rank))] = speed if tokens and wall else None
        return cells


class Source:
    """The documents of one run folder, read when they are asked for; all paths lie within it."""

    def __init__(self, folder: Path, results: Results) -> None:
        self.folder, self.results = folder, results
        for path in results.files():
            inside(folder, path)
        self._reader = CurveReader(folder, results)
        self._reader.cells = self._stored = _Cells(folder, results)
        self.cells = lru_cache(maxsize=512)(self._cells)
        self.curve = lru_cache(maxsize=4096)(self._curve)
        self.questions = lru_cache(maxsize=64)(self._questions)

    def _cells(self, curve: CurveRow, rank: int) -> list[Cell] | None:
        """The cells of a curve at a rank (0 is the base), of a group one for each member.

        None where they were not kept, or are damaged.
        """
        try:
            cells = self._stored.read(curve, rank)
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

    def speed(self, curve: CurveRow, rank: int) -> Speed | None:
        """How fast a cell was computed; None where that was not counted."""
        paths = tuple(curve.files(rank))
        if paths not in self._stored.speeds:
            self.cells(curve, rank)
        return self._stored.speeds.get(paths)

    def dataset(self, task: str) -> tuple[str, str] | None:
        """The hub's id of a task's data set and its configuration; None where that is not known."""
        where = self.results.task(task).requests
        try:
            with gzip.open(inside(self.folder, where or ""), "rt", encoding="utf-8") as lines:
                config = json.loads(next(lines))["config"]
        except (OSError, EOFError, ValueError, KeyError, StopIteration):
            return None
        path, name = str(config.get("dataset_path")), str(config.get("dataset_name") or "default")
        return (path, name) if path.count("/") == 1 else None

    def _questions(self, task: str) -> Mapping[str, Wording]:
        """Questions and references of a task by document; empty where the run kept none."""
        try:
            content = self._stored.documents(task)
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


@dataclass(frozen=True)
class Sample:
    """A document with the answers of one curve: rank, text, score."""

    kind: str
    document: Mapping[str, str]
    answers: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True)
class Samples:
    """The first documents of a task with the answers of several curves, the first the leader's."""

    documents: Sequence[Mapping[str, str]]  # `id`, `question` and `target` of each
    # `label`, `ranks` (0 is the base), and for each rank `scores` and `answers`
    curves: Sequence[Mapping[str, Any]]
    n_docs: int  # of the task

    def examples(self) -> list[Sample]:
        """Gained with the rank, lost with it, wrong all along: the first of each kind.

        They are the leader's at a low, a middle and its highest rank; nobody has picked them.
        """
        ranks, scores, answers = (self.curves[0][key] for key in ("ranks", "scores", "answers"))
        at = [i for i, rank in enumerate(ranks) if rank]
        shown = list(dict.fromkeys((at[0], at[len(at) // 2], at[-1])))
        by_kind: dict[str | None, list[int]] = {}
        for i in range(len(self.documents)):
            by_kind.setdefault(_kind([scores[k][i] for k in shown]), []).append(i)
        return [
            Sample(
                kind,
                self.documents[i],
                tuple((ranks[k], answers[k][i], scores[k][i]) for k in shown),
            )
            for kind, most in _KINDS.items()
            for i in by_kind.get(kind, [])[:most]
        ]


def _kind(scores: Sequence[float]) -> str | None:
    if scores[-1] != scores[0]:
        return f"{'gained' if scores[-1] > scores[0] else 'lost'} with the rank"
    return "wrong at every rank shown" if max(scores) < RIGHT else None


@dataclass(frozen=True)
class _Outcomes:
    """One rank of a curve: documents, their scores and responses in the same order."""

    doc_ids: tuple[str, ...]
    scores: NDArray[np.float64]
    responses: tuple[Any, ...]


def seeds_of(curve: CurveRow) -> list[Curve] | None:
    """The curve's checkpoints with their documents; None where any of them has none."""
    rows = curve.members or (curve,)
    curves = (row.source.curve(row) if row.source and row.ranks else None for row in rows)
    known = [one for one in curves if one is not None]
    return known if len(known) == len(rows) else None


def outcomes(curve: CurveRow, rank: int) -> _Outcomes | None:
    """The documents of one rank (0: the base); of a group its members' one after the other."""
    cells = curve.source.cells(curve, rank) if curve.source else None
    if not cells:
        return None
    columns = [np.asarray(cell.scores(curve.metric)) for cell in cells]
    if curve.source and curve.source.results.task(curve.task).drawn is True:
        cells, columns = cells[:1], [np.mean(columns, axis=0)]  # answers of the first draw
    several = len(cells) > 1
    ids = (f"{at}:{d.id}" if several else d.id for at, c in enumerate(cells) for d in c.documents)
    responses = (response for cell in cells for response in cell.responses)
    return _Outcomes(tuple(ids), np.concatenate(columns), tuple(responses))


def _first(curve: CurveRow) -> CurveRow:
    """The curve, of several seeds the first one's."""
    return curve.members[0] if curve.members else curve


def speeds(curve: CurveRow) -> dict[int, Speed]:
    """Measured speed at each rank, where it was counted; of several seeds the first's."""
    first = _first(curve)
    ranks, source = first.ranks, first.source
    measured = ((rank, source.speed(first, rank) if source else None) for rank in ranks)
    return {rank: speed for rank, speed in measured if speed}


def answer_text(response: Any, choices: Sequence[str] = ()) -> str:
    """One stored response as text: what was generated, or the choice with its likelihoods."""
    if isinstance(response, str):
        return response
    if isinstance(response, Sequence) and response:
        if all(isinstance(value, (int, float)) for value in response):
            best = max(range(len(response)), key=lambda i: response[i])
            named = f": {choices[best]}" if len(choices) == len(response) else ""
            listed = ", ".join(f"{value:.2f}" for value in response).replace("-", "\u2212")
            return f"choice {best + 1}{named}\n(log-likelihoods {listed})"
        return "\n".join(answer_text(item) for item in response)
    return "" if response in (None, []) else str(response)


def questions(curve: CurveRow) -> Mapping[str, Wording]:
    """Questions and references of the curve's task by document."""
    source = _first(curve).source
    return source.questions(curve.task) if source else {}


def _answers(curve: CurveRow) -> dict[int, _Outcomes]:
    """Rank → its documents and responses, of the ranks that have both and the same documents."""
    one = _first(curve)
    kept = {rank: known for rank in (0, *one.ranks) if (known := outcomes(one, rank))}
    doc_ids = next((known.doc_ids for known in kept.values()), ())
    return {
        rank: known
        for rank, known in kept.items()
        if known.doc_ids == doc_ids and len(known.responses) == len(doc_ids)
    }


def samples(curves: Sequence[CurveRow]) -> Samples | None:
    """Documents of one task with the answers of several curves at every rank and of the base.

    The first documents are kept, as many as a page can hold.
    """
    known = ((curve.label, _answers(curve)) for curve in curves)
    kept = {label: answers for label, answers in known if len(answers) > 1}
    columns = [one for by_rank in kept.values() for one in by_rank.values()]
    together = {one.doc_ids for one in columns}
    if len(together) != 1:
        return samples(curves[:1]) if len(curves) > 1 else None
    doc_ids, wordings = together.pop(), questions(curves[0])
    rows, total = [], 0
    for i, doc in enumerate(doc_ids[:_MAX_SAMPLES]):
        wording = wordings.get(doc, Wording())
        texts = [answer_text(one.responses[i], wording.choices) for one in columns]
        row = [shorten(t, _MAX_TEXT) for t in (doc, wording.question, wording.target, *texts)]
        total += sum(map(len, row))
        if total > _MAX_ALL:
            break
        rows.append(row)
    names = ("id", "question", "target")
    documents = [dict(zip(names, row, strict=False)) for row in rows]
    answers = iter([list(column) for column in zip(*rows, strict=True)][3:])
    shown = [
        {
            "label": shorten(label, _MAX_TEXT),
            "ranks": list(by_rank),
            "scores": [one.scores[: len(rows)].round(4).tolist() for one in by_rank.values()],
            "answers": list(islice(answers, len(by_rank))),
        }
        for label, by_rank in kept.items()
    ]
    return Samples(documents, shown, len(doc_ids)) if rows else None
