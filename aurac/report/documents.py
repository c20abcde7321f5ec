"""What the stored cells say about single documents: outcomes, gained and lost, examples.

Questions and references are not part of a cell. A run that keeps them writes one file for each
task, named by the task's entry in `results.json` under `documents`:
`{"doc_ids": [...], "questions": [...], "targets": [...], "choices": [[...], ...] or null}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from aurac.curves.curve import Curve
from aurac.errors import CurveError, RunFolderError
from aurac.files import sha256_json
from aurac.readers.run import document_keys, inside, read_stored

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.report.model import CurveRow, Run


# Scores closer than this are the same score written twice.
_SAME = 1e-9
_RIGHT = 0.5
KINDS = {"gained with the rank": 2, "lost with the rank": 1, "wrong at every rank shown": 1}


@dataclass(frozen=True)
class CellScores:
    """One cell: a score in [0, 1] and the raw response for each document."""

    scores: Mapping[str, float]
    responses: Mapping[str, Any]
    hashes: tuple[str, ...] | None
    strata: tuple[str, ...] | None
    prompts: str | None


@dataclass(frozen=True)
class Wording:
    """What a document asks."""

    question: str = ""
    target: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """Documents whose score rose or fell when the rank went from `lower` to `upper`."""

    lower: int
    upper: int
    gained: int
    lost: int


@dataclass(frozen=True)
class Changes:
    """The steps of one curve."""

    label: str
    task: str
    n_docs: int
    steps: tuple[Step, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The two ranks of each step as text; rank 0 is the base."""
        return [(str(step.lower) if step.lower else "base", str(step.upper)) for step in self.steps]


@dataclass(frozen=True)
class Answer:
    """What one rank answered."""

    rank: int
    text: str
    score: float

    @property
    def right(self) -> bool:
        """Whether it counts as right; a score between 0 and 1 is shown beside it."""
        return self.score >= _RIGHT


@dataclass(frozen=True)
class Example:
    """One document with the answers of several ranks of one adapter."""

    kind: str
    label: str
    task: str
    doc_id: str
    wording: Wording
    answers: tuple[Answer, ...]


def cell(curve: CurveRow, rank: int) -> CellScores | None:
    """The cell of a curve at a rank (0 is the base); None when it was not kept or is damaged."""
    paths = curve.cells.get(rank, ())
    lists = curve.documents_in if len(curve.documents_in) == len(paths) else (None,) * len(paths)
    parts = [_read(path, where, curve.metric) for path, where in zip(paths, lists, strict=True)]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return known[0] if len(known) == 1 else _pooled(known)


def _pooled(parts: Sequence[CellScores]) -> CellScores:
    """A group's cell: its members one after the other, each a stratum of its own."""
    hashes = [part.hashes for part in parts]
    return CellScores(
        scores={
            f"{at}:{doc}": s for at, part in enumerate(parts) for doc, s in part.scores.items()
        },
        responses={
            f"{at}:{doc}": said
            for at, part in enumerate(parts)
            for doc, said in part.responses.items()
        },
        hashes=tuple(h for several in hashes for h in several or ()) if all(hashes) else None,
        strata=tuple(str(at) for at, part in enumerate(parts) for _ in part.scores),
        prompts=",".join(part.prompts or "" for part in parts),
    )


@lru_cache(maxsize=512)
def _read(path: Path, documents: Path | None, metric: str) -> CellScores | None:
    try:
        stored = read_stored(path, _keys(documents) if documents else None)
    except RunFolderError:
        return None
    if metric not in stored.metrics:
        return None
    ids = stored.doc_ids
    return CellScores(
        scores=dict(zip(ids, stored.metrics[metric], strict=True)),
        responses=dict(zip(ids, stored.responses, strict=True)),
        hashes=tuple(document.content for document in stored.documents),
        strata=None,
        prompts=sha256_json([document.prompt for document in stored.documents]),
    )


_keys = lru_cache(maxsize=64)(document_keys)


def with_outcomes(curve: CurveRow) -> Curve | None:
    """The curve with its documents, for `aurac.stats`.

    None when a cell is missing or damaged, when the ranks have other documents, or when the
    documents do not average to the accuracy that `results.json` states.
    """
    cells = [cell(curve, rank) for rank in curve.ranks]
    first = cells[0] if cells else None
    if first is None or any(c is None or list(c.scores) != list(first.scores) for c in cells):
        return None
    outcomes = [list(c.scores.values()) for c in cells if c is not None]
    labels = {
        "doc_ids": tuple(first.scores),
        "doc_hashes": first.hashes,
        "strata": first.strata,
        "clusters": _clusters(curve.clustered_in, tuple(first.scores)),
        "prompts": first.prompts,
        "adapter": curve.adapter,
        "basis": curve.basis,
        "rescale": curve.rescale,
        "task": curve.task,
        "metric": curve.metric,
        "method": curve.method,
        "seed": curve.seed,
        "missing": dict(curve.missing),
    }
    try:
        found = Curve.from_outcomes(curve.ranks, outcomes, **labels)
    except CurveError:
        return None
    agrees = all(abs(a - b) < 1e-6 for a, b in zip(found.accuracy, curve.accuracy, strict=True))
    return found if agrees else None


@lru_cache(maxsize=64)
def _clusters(path: Path | None, documents: tuple[str, ...]) -> tuple[str, ...] | None:
    """What each document shares with others, or None where the task has no such field."""
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = dict(zip(content["doc_ids"], content["clusters"], strict=True))
        return tuple(labels[doc] for doc in documents)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def answer_text(response: Any, choices: Sequence[str] = ()) -> str:
    """One stored response as text: what was generated, or the choice with its likelihoods."""
    if isinstance(response, str):
        return response
    if isinstance(response, Sequence) and response:
        if all(isinstance(value, (int, float)) for value in response):
            best = max(range(len(response)), key=lambda i: response[i])
            named = f": {choices[best]}" if len(choices) == len(response) else ""
            listed = ", ".join(f"{value:.2f}" for value in response)
            return f"choice {best + 1}{named}\n(log-likelihoods {listed})"
        return "\n".join(answer_text(item) for item in response)
    return "" if response in (None, []) else str(response)


@lru_cache(maxsize=32)
def _wordings(path: Path) -> Mapping[str, Wording]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = [str(doc) for doc in content["doc_ids"]]
        choices = content.get("choices") or [()] * len(ids)
        rows = zip(ids, content["questions"], content["targets"], choices, strict=True)
        return {
            doc: Wording(str(question), str(target), tuple(map(str, several or ())))
            for doc, question, target, several in rows
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def wordings(run: Run, task: str) -> Mapping[str, Wording]:
    """Questions and references of a task by document; empty where the run did not keep them."""
    relative = run.task(task).get("documents")
    if not isinstance(relative, str):
        return {}
    for root in run.roots:
        found = _wordings(inside(root, relative))
        if found:
            return found
    return {}


def changes(curve: CurveRow, ranks: Sequence[int] | None = None) -> Changes | None:
    """Documents gained and lost from each rank to the next; None without cells.

    A mean over seeds counts the documents of every seed.

    Args:
        curve: Whose cells are read.
        ranks: The ranks to step through; the base and every rank of the curve by default.
    """
    parts = [_steps(one, ranks or (0, *curve.ranks)) for one in curve.members or (curve,)]
    known = [part for part in parts if part is not None and part[0]]
    if len(known) < len(parts) or len({len(steps) for steps, _ in known}) > 1:
        return None
    together = [
        Step(same[0].lower, same[0].upper, sum(s.gained for s in same), sum(s.lost for s in same))
        for same in zip(*(steps for steps, _ in known), strict=True)
    ]
    return Changes(curve.label, curve.task, sum(n for _, n in known), tuple(together))


def _steps(curve: CurveRow, ranks: Sequence[int]) -> tuple[list[Step], int] | None:
    """The steps of one checkpoint, and its documents."""
    cells = {rank: cell(curve, rank) for rank in ranks}
    kept = [(rank, found) for rank, found in cells.items() if found is not None]
    steps = []
    for (lower, before), (upper, after) in pairwise(kept):
        if before.scores.keys() != after.scores.keys():
            return None
        rises = [after.scores[doc] - score for doc, score in before.scores.items()]
        gained, lost = sum(x > _SAME for x in rises), sum(x < -_SAME for x in rises)
        steps.append(Step(lower, upper, gained, lost))
    return steps, len(kept[0][1].scores) if kept else 0


def examples(run: Run, curve: CurveRow) -> list[Example]:
    """A few documents of one curve: gained with the rank, lost with it, wrong all along.

    The first documents of each kind in stored order are shown, so nobody has picked them. Of a mean
    over seeds the first seed's are shown.
    """
    curve = curve.members[0] if curve.members else curve
    ranks = [rank for rank in curve.ranks if cell(curve, rank) is not None]
    if len(ranks) < 2:
        return []
    shown = list(dict.fromkeys([ranks[0], ranks[len(ranks) // 2], ranks[-1]]))
    cells = {rank: found for rank in shown if (found := cell(curve, rank)) is not None}
    first = cells[shown[0]]
    if not all(c.responses and c.scores.keys() == first.scores.keys() for c in cells.values()):
        return []
    words = wordings(run, curve.task)
    listed: list[Example] = []
    for kind, most in KINDS.items():
        matching = [doc for doc in first.scores if _kind(doc, list(cells.values())) == kind]
        for doc in matching[:most]:
            wording = words.get(doc, Wording())
            given = tuple(
                Answer(rank, answer_text(c.responses[doc], wording.choices), c.scores[doc])
                for rank, c in cells.items()
            )
            listed.append(Example(kind, curve.label, curve.task, doc, wording, given))
    return listed


def _kind(doc: str, cells: Sequence[CellScores]) -> str | None:
    scores = [found.scores[doc] for found in cells]
    if scores[-1] - scores[0] > _SAME:
        return "gained with the rank"
    if scores[0] - scores[-1] > _SAME:
        return "lost with the rank"
    return "wrong at every rank shown" if max(scores) < _RIGHT else None
