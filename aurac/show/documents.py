"""What the stored cells say about single documents: outcomes, gained and lost, answers, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.records.run import Speed, Wording
from aurac.records.serving import NOISE, against
from aurac.show.escape import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.records.run import CurveRow
    from aurac.records.serving import AdapterCost, RankCost, ServingRecord

RIGHT = 0.5
_KINDS = {"gained with the rank": 2, "lost with the rank": 1, "wrong at every rank shown": 1}
# The samples of a page: documents, characters of a text, characters of all.
_MAX_SAMPLES, _MAX_TEXT, _MAX_ALL = 200, 800, 500_000


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


def _first(curve: CurveRow) -> CurveRow:
    """The curve, of several seeds the first one's."""
    return curve.members[0] if curve.members else curve


def answerer(curve: CurveRow) -> str:
    """Whose answers stand for a curve: of several seeds those of the first one."""
    return f"{curve.label} ({_first(curve).adapter})" if curve.members else curve.label


def speeds(curve: CurveRow) -> dict[int, Speed]:
    """Measured speed at each rank, where it was counted; of several seeds the median."""
    found: dict[int, Speed] = {}
    rows = [row for row in curve.members or (curve,) if row.source]
    for rank in curve.ranks:
        every = [speed for row in rows if row.source and (speed := row.source.speed(row, rank))]
        if every:
            found[rank] = Speed(
                tokens=median(speed.tokens for speed in every),
                seconds=median(speed.seconds for speed in every),
            )
    return found


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
    """Rank (0: the base) → its documents and responses, of the ranks that have both alike."""
    first, kept = _first(curve), dict[int, _Outcomes]()
    if (source := first.source) is None:
        return kept
    for rank in (0, *first.ranks):
        cells = source.cells(first, rank)
        if not cells:
            continue
        columns = [np.asarray(cell.scores(first.metric)) for cell in cells]
        if source.results.task(first.task).drawn is True:
            cells, columns = cells[:1], [np.mean(columns, axis=0)]  # answers of the first draw
        prefix = [f"{at}:" if len(cells) > 1 else "" for at in range(len(cells))]
        ids = tuple(at + d.id for at, c in zip(prefix, cells, strict=True) for d in c.documents)
        responses = tuple(response for cell in cells for response in cell.responses)
        known = _Outcomes(ids, np.concatenate(columns), responses)
        if next(iter(kept.values()), known).doc_ids == ids and len(responses) == len(ids):
            kept[rank] = known
    return kept


def samples(curves: Sequence[CurveRow]) -> Samples | None:
    """Documents of one task with the answers of several curves at every rank and of the base.

    The first documents are kept, as many as a page can hold.
    """
    kept = {answerer(curve): known for curve in curves if len(known := _answers(curve)) > 1}
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


@dataclass(frozen=True)
class Served:
    """A curve at the ranks that have an accuracy and a measured cost, ascending."""

    curve: CurveRow
    cost: AdapterCost
    points: tuple[tuple[RankCost, float], ...]

    @property
    def unclear(self) -> list[tuple[RankCost, float]]:
        """The points whose time of a token is within noise of that of the largest rank."""
        return [point for point in self.points if against(point[0], self.cost.full) == NOISE]


def cost_of(record: ServingRecord, curve: CurveRow) -> Served | None:
    """A curve with its costs."""
    cost = record.cost_of([row.adapter for row in curve.members or (curve,)], curve.basis)
    if cost is None:
        return None
    known = dict(zip(curve.ranks, curve.accuracy, strict=True))
    points = tuple((one, known[one.rank]) for one in cost.ranks if one.rank in known)
    return Served(curve, cost, points) if points else None
