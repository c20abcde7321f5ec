"""Per-document and per-rank tables → curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.checks import is_missing
from aurac.curves.curve import Curve
from aurac.errors import AuracError, DataError
from aurac.readers.batches import COLUMNS, TEXT, batches, check_columns
from aurac.readers.columns import (
    KEYS,
    Coder,
    Key,
    label_of,
    number_column,
    seed_of,
    whole_column,
)
from aurac.readers.points import point_curves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def read_table(path: Path, metric: str | None = None) -> tuple[list[Curve], str]:
    """Curves of a table file, and whether they hold "documents" or only "points".

    Raises:
        DataError: As `aurac.readers.read_curves`.
    """
    return _curves(batches(path), path.name, metric)


def curves_from_frame(frame: Any, metric: str | None = None) -> list[Curve]:
    """Curves of a DataFrame with the columns of a table file.

    Args:
        frame: Columns ``adapter, task, rank, doc_id, score`` (optional ``seed, cluster, stratum,
            metric, sample``), or ``rank, accuracy`` (optional ``adapter, task``).
        metric: ``name,filter`` to keep, where there are several.

    Raises:
        DataError: A column is missing or its content cannot be used.
    """
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    check_columns(names, "the table")
    known = [name for name in names if name in COLUMNS]
    table = pa.table(
        {
            name: pa.array(
                [None if is_missing(v) else str(v) for v in frame[name]]
                if name in TEXT
                else frame[name].to_numpy(),
                from_pandas=True,
            )
            for name in known
        }
    )
    return _curves(iter([table]), "the table", metric)[0]


def _curves(source: Iterator[Any], where: str, metric: str | None) -> tuple[list[Curve], str]:
    first = next(source, None)
    if first is None or first.num_rows == 0:
        following = next(source, None) if first is not None else None
        if following is None:
            raise DataError(f"{where} has no rows")
        first = following
    try:
        if "score" in first.column_names and "doc_id" in first.column_names:
            return _documents(_chain(first, source), where, metric), "documents"
        return point_curves(_chain(first, source), where, metric), "points"
    except AuracError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: {error}") from error


def _chain(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


@dataclass
class Rows:
    """A per-document table, encoded: five numbers a row."""

    keys: Coder = field(default_factory=Coder)
    docs: Coder = field(default_factory=Coder)
    groups: dict[tuple[int, ...], int] = field(default_factory=dict)
    labels: dict[str, Coder] = field(default_factory=dict)
    sampled: bool = False
    parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, batch: Any, where: str) -> None:
        """Encode one batch."""
        names = batch.column_names
        size = batch.num_rows
        absent = np.full(size, -1, dtype=np.int32)
        codes = [self.keys.encode(batch[name]) if name in names else absent for name in KEYS]
        self._put("group", self._groups(codes))
        self._put("rank", whole_column(batch["rank"], "rank", where))
        documents = self.docs.encode(batch["doc_id"])
        if None in self.docs.codes:
            raise DataError(f"{where} has a row without a doc_id")
        self._put("doc", documents)
        self._put("score", number_column(batch["score"], "score", where))
        for name in ("cluster", "stratum", "sample"):
            if name in names:
                coder = self.labels.setdefault(name, Coder())
                self._put(name, coder.encode(batch[name]))
        self.sampled = self.sampled or "sample" in names

    def _put(self, name: str, column: NDArray[Any]) -> None:
        self.parts.setdefault(name, []).append(column)

    def _groups(self, codes: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        width = len(self.keys.codes) + 2
        packed = np.zeros(codes[0].size, dtype=np.int64)
        for column in codes:
            packed = packed * width + (column + 1)
        runs = np.flatnonzero(np.diff(packed, prepend=packed[0] - 1))
        _, at, inverse = np.unique(packed[runs], return_index=True, return_inverse=True)
        names = [tuple(int(column[i]) for column in codes) for i in runs[np.sort(at)]]
        order = np.argsort(np.argsort(at))  # groups are numbered as they first appear
        local = [self.groups.setdefault(name, len(self.groups)) for name in names]
        numbers = np.asarray(local, dtype=np.int32)[order][inverse]
        return np.repeat(numbers, np.diff(np.append(runs, packed.size)))

    def take(self, name: str) -> Any:
        """A whole column, given up by the table."""
        parts = self.parts.pop(name, None)
        return None if parts is None else (parts[0] if len(parts) == 1 else np.concatenate(parts))

    def key(self, group: tuple[int, ...]) -> Key:
        """Adapter, task, metric and seed of a group, None for what the table does not say."""
        words = self.keys.words()
        return tuple(None if code < 0 else words[code] for code in group)


def _documents(source: Iterator[Any], where: str, metric: str | None) -> list[Curve]:
    rows = Rows()
    for batch in source:
        rows.add(batch, where)
    return DocumentTable.make(rows, where).curves(metric)


@dataclass
class DocumentTable:
    """An encoded table sorted by group, rank, document: slices of it are curves."""

    rows: Rows
    where: str
    group: NDArray[np.int32]
    rank: NDArray[np.int32]
    doc: NDArray[np.int32]
    score: NDArray[np.float64]
    extra: dict[str, NDArray[np.int32]]
    _ids: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def make(cls, rows: Rows, where: str) -> DocumentTable:
        """Sort, average the samples of a document, and refuse duplicates."""
        extra = {n: c for n in ("cluster", "stratum", "sample") if (c := rows.take(n)) is not None}
        columns = {name: rows.take(name) for name in ("group", "rank", "doc", "score")}
        size = len(columns["doc"])
        if any(len(column) != size for column in extra.values()):
            raise DataError(f"{where} has cluster, stratum or sample in some of its rows only")
        order = _sorting(columns)
        if order is not None:
            for store in (columns, extra):
                for name in list(store):
                    store[name] = store[name][order]
        table = cls(rows, where, **columns, extra=extra)
        table._merge_samples()
        return table

    def _merge_samples(self) -> None:
        new = np.empty(self.group.size, dtype=bool)
        new[0] = True
        new[1:] = (np.diff(self.group) != 0) | (np.diff(self.rank) != 0) | (np.diff(self.doc) != 0)
        if new.all():
            return
        sample = self.extra.pop("sample", None)
        starts = np.flatnonzero(new)
        counts = np.diff(np.append(starts, new.size))
        if sample is None:
            at = starts[np.argmax(counts > 1)]
            raise DataError(
                f"{self.where}: document {self._doc(at)!r} appears {counts.max()} times at rank "
                f"{self.rank[at]} of {self._name(at)}",
                expected="one row for each document and rank",
                fix="tell repeated generations apart with a column named sample",
            )
        self._check_samples(sample, new, starts, counts)
        self.score = np.add.reduceat(self.score, starts) / counts
        self.group, self.rank, self.doc = self.group[starts], self.rank[starts], self.doc[starts]
        self.extra = {name: column[starts] for name, column in self.extra.items()}

    def _check_samples(
        self,
        sample: NDArray[np.int32],
        new: NDArray[np.bool_],
        starts: NDArray[np.intp],
        counts: NDArray[np.intp],
    ) -> None:
        place = np.cumsum(new) - 1
        packed = place.astype(np.int64) * (int(sample.max()) + 1) + sample
        if np.unique(packed).size != packed.size:
            raise DataError(f"{self.where}: a sample of a document appears twice at one rank")
        if counts.min() != counts.max():
            at = starts[np.argmin(counts)]
            raise DataError(
                f"{self.where}: document {self._doc(at)!r} has {counts.min()} samples at rank "
                f"{self.rank[at]} of {self._name(at)} and others have {counts.max()}",
                expected="as many samples of every document",
            )

    def _doc(self, row: int | np.intp) -> str:
        return str(self.rows.docs.words()[self.doc[row]])

    def _name(self, row: int | np.intp) -> str:
        key = self.rows.key(list(self.rows.groups)[self.group[row]])
        return label_of(key)

    def curves(self, metric: str | None) -> list[Curve]:
        """One curve for each adapter, task, metric and seed."""
        found = []
        groups = list(self.rows.groups)
        bounds = [*np.flatnonzero(np.diff(self.group, prepend=-1)).tolist(), self.group.size]
        for start, stop in pairwise(bounds):
            key = self.rows.key(groups[self.group[start]])
            if metric is None or key[2] in (None, metric):
                found.append(self._curve(key, start, stop))
        if not found:
            raise DataError(f"{self.where} has no metric {metric!r}")
        return found

    def _curve(self, key: Key, start: int, stop: int) -> Curve:
        ranks = self.rank[start:stop]
        cuts = [start + int(i) for i in np.flatnonzero(np.diff(ranks, prepend=-1))] + [stop]
        docs = self.doc[cuts[0] : cuts[1]]
        rows: dict[int, NDArray[np.float64]] = {}
        for a, b in pairwise(cuts):
            if b - a != docs.size or not np.array_equal(self.doc[a:b], docs):
                self._unequal(key, cuts[0], a, docs, self.doc[a:b])
            rows[int(self.rank[a])] = self.score[a:b]
        baseline = rows.pop(0, None)
        if not rows:
            raise DataError(
                f"{self.where}: {label_of(key)} has rank 0 only", expected="ranks from 1"
            )
        labels = {
            "clusters": self._labels("cluster", cuts, key),
            "strata": self._labels("stratum", cuts, key),
            "baseline": None if baseline is None else float(baseline.mean()),
        }
        return _made(key, self.where, rows, self._doc_ids(docs), labels)

    def _unequal(
        self, key: Key, first: int, other: int, docs: NDArray[Any], found: NDArray[Any]
    ) -> None:
        words = self.rows.docs.words()
        odd = np.setxor1d(docs, found)
        raise DataError(
            f"{self.where}: {label_of(key)} has other documents at ranks {self.rank[first]} and "
            f"{self.rank[other]} ({odd.size} differ, {words[odd[0]]!r} among them)",
            expected="the same documents at every rank",
        )

    def _doc_ids(self, docs: NDArray[np.int32]) -> tuple[str, ...]:
        key = docs.tobytes()
        if key not in self._ids:
            words = self.rows.docs.words()
            self._ids[key] = tuple(str(words[code]) for code in docs)
        return self._ids[key]

    def _labels(self, name: str, cuts: list[int], key: Key) -> tuple[str, ...] | None:
        column = self.extra.get(name)
        if column is None:
            return None
        first = column[cuts[0] : cuts[1]]
        for a, b in pairwise(cuts):
            if not np.array_equal(column[a:b], first):
                at = int(np.flatnonzero(column[a:b] != first)[0])
                raise DataError(
                    f"{self.where}: document {self._doc(a + at)!r} of {label_of(key)} has another "
                    f"{name} at rank {self.rank[a]} than at rank {self.rank[cuts[0]]}"
                )
        words = self.rows.labels[name].words()
        missing = [is_missing(words[code]) for code in first]
        if all(missing):
            return None
        if any(missing):
            at = missing.index(True)
            raise DataError(
                f"{self.where}: document {self._doc(cuts[0] + at)!r} of {label_of(key)} has no "
                f"{name} ({sum(missing)} of {len(missing)} have none)",
                expected=f"a {name} for every document of a task, or for none",
                fix="give each a label, one of its own where it shares nothing",
            )
        text = tuple(str(words[code]) for code in first)
        # The same tuple for the same labels, so that curves are joined without comparing text.
        return self._ids.setdefault(name.encode() + first.tobytes(), text)


def _sorting(columns: dict[str, NDArray[Any]]) -> NDArray[np.intp] | None:
    """How to sort by group, rank, document; None where the table is sorted already."""
    ranks = int(columns["rank"].max()) + 1
    docs = int(columns["doc"].max()) + 1
    packed = columns["group"].astype(np.int64) * ranks
    packed += columns["rank"]
    packed *= docs
    packed += columns["doc"]
    if (packed[1:] >= packed[:-1]).all():
        return None
    return np.argsort(packed, kind="stable")


def _made(
    key: Key,
    where: str,
    rows: dict[int, NDArray[np.float64]],
    doc_ids: tuple[str, ...],
    labels: dict[str, Any],
) -> Curve:
    adapter, task, metric, seed = key
    outcomes = np.stack(list(rows.values()))
    outcomes.setflags(write=False)
    try:
        return Curve.from_outcomes(
            list(rows),
            outcomes,
            doc_ids=doc_ids,
            adapter=adapter,
            task=task,
            metric=metric,
            seed=seed_of(seed),
            **labels,
        )
    except AuracError as error:
        raise DataError(f"{where}: {label_of(key)}: {error}") from error
