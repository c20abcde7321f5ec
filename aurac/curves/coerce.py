"""Curves from what users have: mappings, pandas objects, rows of ``results.json``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.arguments import kind_of
from aurac.curves.checks import check_ends, is_missing, whole_rank
from aurac.curves.curve import Curve
from aurac.errors import CurveError

if TYPE_CHECKING:
    from aurac.curves.curve import CurveFields

AMOUNTS = {"parameters": "parameters", "bytes": "sizes"}  # column → field of `Curve`
_PLURAL = {"basis": "bases"}
_ROW_LABELS = (
    *("adapter", "task", "metric", "method", "base", "basis", "rescale", "seed", "role"),
    "data_order",
)


def as_curve(source: Any) -> Curve:
    """A curve from whatever `aurac.score` accepts.

    Args:
        source: A `Curve`; a mapping ``rank -> accuracy``, ``rank -> (n,) scores`` or ``rank ->
            {document: score}``; ``(ranks, accuracies)``, or ``(ranks, (K, n) scores)``; a pandas
            Series indexed by rank; a DataFrame with columns ``rank, accuracy`` (optional ``low,
            high``: 95 % intervals) or ``rank, doc_id, score`` (optional ``cluster, stratum``), with
            optional ``parameters, bytes`` of each rank; a curve of ``results.json``. Rank 0 is the
            base model, whichever form it stands in.

    Raises:
        CurveError: It is none of these, or its numbers are not a curve.
    """
    if isinstance(source, Curve):
        return source
    if hasattr(source, "columns"):
        return _from_frame(source)
    if hasattr(source, "index") and hasattr(source, "to_numpy"):
        _check_index(source)
        return _from_columns(source.index, source.to_numpy())
    if hasattr(source, "ranks") and hasattr(source, "to_dict"):  # a record of results.json
        return _from_row(source.to_dict())
    if isinstance(source, Mapping):
        return _from_row(source) if "ranks" in source else _from_mapping(source)
    if isinstance(source, (tuple, list)) and len(source) == 2 and all(map(np.iterable, source)):
        return _from_columns(*source)
    fix = None
    if isinstance(source, str):
        fix = "aurac.readers.read_curves(path) has those of a run or a table"
    elif hasattr(source, "curves"):
        fix = "take run.scores for the AURAC of every curve, or one of run.curves"
    raise CurveError(
        f"{kind_of(source)} is no curve",
        expected="a Curve, a mapping rank -> accuracy, (ranks, accuracies), a Series, a DataFrame "
        "with columns rank and accuracy, or a curve of results.json",
        fix=fix,
    )


def _check_index(series: Any) -> None:
    """Refuse the numbers of rows, which a column of a table has in the place of ranks."""
    labels = list(series.index)
    ordered = sorted(map(whole_rank, labels))
    counted = len(ordered) > 2 and all(a + 1 == b for a, b in pairwise(ordered))
    named = series.index.name is not None or (series.name is None and 0 not in labels)
    if counted and not named:
        raise CurveError(
            f"a Series over {ordered[0]} to {ordered[-1]}, which are row numbers or ranks",
            expected="an index of ranks",
            fix="give df.set_index('rank').accuracy, or name the index: rename_axis('rank')",
        )


def _from_columns(ranks: Iterable[Any], values: Iterable[Any]) -> Curve:
    """Ranks with accuracies, or with a row of document scores each; rank 0 is the base."""
    known, rows, base = [*map(whole_rank, ranks)], [*values], None
    if 0 in known and len(known) == len(rows):
        base = rows.pop(known.index(0))
        known.remove(0)
    if rows and all(np.iterable(row) and not isinstance(row, str) for row in rows):
        return Curve.from_outcomes(known, rows, base_scores=base)
    return Curve(tuple(known), tuple(rows), baseline=base)


def _from_mapping(by_rank: Mapping[Any, Any]) -> Curve:
    if by_rank and all(isinstance(value, Mapping) for value in by_rank.values()):
        return Curve.from_documents(by_rank)
    return _from_columns(by_rank, by_rank.values())


def _from_row(row: Mapping[str, Any]) -> Curve:
    """A curve of ``results.json``: null accuracies are missing ranks with their reason."""
    if "accuracy" not in row:
        raise CurveError("a row with ranks and no accuracy", expected="both, as in results.json")
    if len(row["ranks"]) != len(row["accuracy"]):
        raise CurveError(
            f"{len(row['accuracy'])} accuracies for {len(row['ranks'])} ranks",
            expected="one for each rank",
        )
    points = list(zip(row["ranks"], row["accuracy"], strict=True))
    known = [(rank, value) for rank, value in points if value is not None]
    missing = {whole_rank(r): str(why) for r, why in (row.get("missing") or {}).items()}
    for rank in (rank for rank, value in points if value is None):
        missing.setdefault(whole_rank(rank), "no reason recorded")
    labels = {name: row[name] for name in _ROW_LABELS if row.get(name) is not None}
    for column, name in AMOUNTS.items():
        labels[name] = _amounts(row["ranks"], row.get(column) or ())
    return Curve(
        tuple(rank for rank, _ in known),
        tuple(value for _, value in known),
        baseline=row.get("baseline"),
        missing=missing,
        intervals=_intervals(row["ranks"], row.get("accuracy_low"), row.get("accuracy_high")),
        **labels,
    )


def _amounts(ranks: Any, values: Any) -> dict[int, Any]:
    """Rank → number, of the ranks that have one."""
    return {whole_rank(r): v for r, v in zip(ranks, values, strict=False) if not is_missing(v)}


def _intervals(ranks: Any, lows: Any, highs: Any) -> dict[int, tuple[float, float]]:
    """Rank → (low, high), of the ranks that have both."""
    if lows is None or highs is None:
        return {}
    rows = zip(ranks, lows, highs, strict=False)
    return {whole_rank(r): (a, b) for r, a, b in rows if not (is_missing(a) or is_missing(b))}


def check_single(name: str, values: Collection[Any], what: str, fix: str) -> None:
    """Refuse rows of several curves, which differ in the column `name`."""
    if len(values) > 1:
        several = _PLURAL.get(name, f"{name}s")
        raise CurveError(f"{what} of {len(values)} {several} is no single curve", fix=fix)


def _from_frame(frame: Any) -> Curve:
    names = [str(c) for c in frame.columns]
    what = f"a table with columns {', '.join(names[:8])}"
    if "rank" not in names:
        raise CurveError(what, expected="a column named rank")
    labels: Any = {}  # fields of the curve
    for name in ("adapter", "task", "metric", "basis", "rescale", "seed"):
        every = "run.scores, of other curves in aurac.analysis.analyse(table).scores"
        fix = f"select one {name}; all of a run are in {every}"
        check_single(name, set(frame[name]) if name in names else (), "a table", fix)
        if name in names and name != "seed" and len(frame):
            labels[name] = str(frame[name].iloc[0])
    if "seed" in names and len(frame) and not is_missing(frame["seed"].iloc[0]):
        labels["seed"] = int(frame["seed"].iloc[0])
    zero = frame["rank"].map(whole_rank) == 0  # the base
    ranked = frame[~zero]
    for column, name in AMOUNTS.items():
        if column in names:
            labels[name] = _amounts(ranked["rank"], ranked[column])
    if "accuracy" in names:
        check_ends(names, "a table")
        known = ranked[~ranked["accuracy"].map(is_missing).astype(bool)]
        labels["missing"] = dict.fromkeys(
            map(whole_rank, ranked.drop(known.index)["rank"]), "empty in the table"
        )
        bases = {value for value in frame.loc[zero, "accuracy"] if not is_missing(value)}
        if len(bases) > 1:
            raise CurveError("rank 0 with several accuracies", expected="one of the base model")
        labels["baseline"] = bases.pop() if bases else None
        labels["intervals"] = _intervals(known["rank"], known.get("low"), known.get("high"))
        return Curve(tuple(known["rank"]), tuple(known["accuracy"]), **labels)
    if {"doc_id", "score"} <= set(names):
        return _from_long(frame, labels)
    raise CurveError(what, expected="rank and accuracy, or rank, doc_id and score")


def _from_long(frame: Any, labels: CurveFields) -> Curve:
    scores: dict[int, dict[Any, float]] = {}
    ranks = map(whole_rank, frame["rank"])
    for rank, doc, value in zip(ranks, frame["doc_id"], frame["score"], strict=True):
        row = scores.setdefault(rank, {})
        if doc in row:
            raise CurveError(f"document {doc!r} appears twice at rank {rank}")
        row[doc] = value
    documents = list(next((row for rank, row in scores.items() if rank), ()))
    columns = set(map(str, frame.columns))
    if "cluster" in columns:
        labels["clusters"] = _document_labels(frame, "cluster", documents)
    if "stratum" in columns:
        labels["strata"] = _document_labels(frame, "stratum", documents)
    return Curve.from_documents(scores, **labels)


def _document_labels(frame: Any, column: str, documents: Sequence[Any]) -> tuple[Any, ...] | None:
    """The label of each document, the same at all its ranks; None where the column is empty."""
    labels: dict[Any, Any] = {}
    for doc, label in zip(frame["doc_id"], frame[column], strict=True):
        text = None if is_missing(label) else str(label)
        if labels.setdefault(doc, text) != text:
            raise CurveError(
                f"document {doc!r} has more than one {column} ({labels[doc]!r} and {text!r})",
                expected="the same at every rank",
            )
    return tuple(labels.get(doc) for doc in documents) if any(labels.values()) else None
