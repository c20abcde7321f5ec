"""Tables of other tools → curves: csv, parquet and jsonl files, and DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aurac.curves.checks import check_ends, is_missing
from aurac.curves.coerce import AMOUNTS
from aurac.curves.curve import Amounts, Curve, CurveLabels
from aurac.curves.display import counted
from aurac.curves.metrics import WantedMetrics
from aurac.errors import AuracError, DataError
from aurac.readers.data_files import no_number, read_columns

LARGEST = 2_000_000_000  # bytes; beyond it a table belongs split by task, or in parquet
_KEYS = ("adapter", "task", "metric")
_CUTS = ("basis", "rescale")  # of a run, whose tables hold every truncation
_TEXT = (*_KEYS, "doc_id", "cluster", "stratum", "sample", *_CUTS)
_ENDS = ("low", "high")  # of the 95 % interval of an accuracy
_OPTIONAL = ("accuracy", "seed", *_ENDS, *AMOUNTS)
_NUMBERS = ("rank", "score", *_OPTIONAL)
COLUMNS = (*_TEXT, *_NUMBERS)
FRAME = "the table"  # what a message calls a data frame


def read_table(path: Path, wanted: WantedMetrics | None = None) -> tuple[list[Curve], str]:
    """Curves of a table file, and whether they hold "documents" or only "points"."""
    size = path.stat().st_size
    if not 0 < size < LARGEST:
        raise DataError(
            f"{path} has {size / 1e9:.1f} GB" if size else f"{path} is empty",
            expected=f"less than {LARGEST / 1e9:.0f} GB" if size else None,
            fix="split it by task, or write it as parquet" if size else None,
        )
    rows = _Rows(read_columns(path, lambda names: _known(names, str(path)), _TEXT), path.name)
    return rows.curves(wanted or WantedMetrics()), "documents" if rows.documents else "points"


def curves_from_frame(frame: Any) -> list[Curve]:
    """Curves of a DataFrame with the columns of a table file (`aurac.readers.read_curves`)."""
    import pyarrow as pa

    known = _known([str(name) for name in frame.columns], FRAME)
    columns = {
        name: pa.array([None if is_missing(v) else str(v) for v in frame[name]])
        if name in _TEXT
        else pa.array(frame[name].to_numpy(), from_pandas=True)
        for name in known
    }
    return _Rows(pa.table(columns), FRAME).curves(WantedMetrics())


def _known(names: Sequence[str], where: str) -> list[str]:
    """The columns that are used; without a rank and a score the table is refused."""
    twice = {n for n in names if names.count(n) > 1 and n in COLUMNS}
    if twice:
        raise DataError(f"{where} has two columns named {min(twice)}")
    documents = {"doc_id", "score"} <= set(names)
    if "rank" in names and ("accuracy" in names or documents):
        if not documents:
            check_ends(names, where, DataError)
        return [name for name in names if name in COLUMNS]
    shown = ", ".join(names[:10]) or "none"
    split = any(mark in name for name in names for mark in ";\t|")
    small = [name.lower() for name in names if name not in COLUMNS and name.lower() in COLUMNS]
    lower = f"write {', '.join(small)} in small letters" if small else None
    raise DataError(
        f"{where} has columns {shown}",
        expected="adapter, task, rank, doc_id, score, or rank and accuracy",
        fix="separate the columns by commas" if split else lower,
    )


@dataclass
class _Text:
    """A column of text: codes by first appearance, -1 where there is none."""

    codes: NDArray[np.int32]
    texts: list[str]

    @classmethod
    def of(cls, column: Any) -> _Text:
        """From an Arrow column."""
        import pyarrow as pa

        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        whole = column.unify_dictionaries().combine_chunks()
        codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        texts = whole.dictionary.cast(pa.string()).to_pylist()
        return cls(codes.astype(np.int32, copy=False), texts)

    def __getitem__(self, row: int | np.intp) -> str | None:
        code = self.codes[row]
        return None if code < 0 else self.texts[code]


def _number(column: Any, name: str, where: str) -> NDArray[np.float64]:
    """An Arrow column as float64; what is empty in an optional one is NaN."""
    import pyarrow as pa

    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise no_number(where, name, error) from None
    if name in _OPTIONAL:
        return values
    if column.null_count:
        first = int(np.flatnonzero(np.isnan(values))[0]) + 1
        raise DataError(
            f"{where} has {counted(column.null_count, 'row')} without a {name} (empty or NaN), the "
            f"first in data row {first}",
            fix="fill it in, or leave the document out at every rank",
        )
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise DataError(f"{where} has a {name} of {bad}", expected="finite numbers")
    return values


class _Rows:
    """The rows of an Arrow table, sorted by curve, rank and document; `where` names it."""

    def __init__(self, table: Any, where: str) -> None:
        import pyarrow as pa

        if table.num_rows == 0:
            raise DataError(f"{where} has no rows")
        self.where = where
        columns = {name: table[name] for name in table.column_names}
        del table  # columns are given up as they are encoded: a leaderboard has 25 million rows
        rank = _number(columns.pop("rank"), "rank", where)
        wrong = rank[(rank != np.floor(rank)) | (rank < 0) | (rank > 2**30)]
        if wrong.size:
            raise self._error(f"a rank of {wrong[0]:g}", expected="whole numbers from 0 up")
        self.rank = rank.astype(np.int32)
        self.seed = _number(columns.pop("seed"), "seed", where) if "seed" in columns else None
        self.amounts = {
            name: _number(columns.pop(name), name, where) for name in AMOUNTS if name in columns
        }
        self.documents = {"score", "doc_id"} <= columns.keys()
        known = not self.documents and columns.keys() >= set(_ENDS)
        self.ends = [_number(columns.pop(name), name, where) for name in _ENDS if known]
        name = "score" if self.documents else "accuracy"
        self.values = _number(columns.pop(name), name, where)
        self.text = {name: _Text.of(columns.pop(name)) for name in _TEXT if name in columns}
        del columns
        pa.default_memory_pool().release_unused()
        self.doc = self.text["doc_id"].codes if self.documents else np.zeros_like(self.rank)
        if self.doc.min() < 0:
            raise DataError(f"{where} has a row without a doc_id")
        self.group = self._groups()
        packed = self.group.astype(np.int64)
        for column in (self.rank, self.doc):
            packed *= int(column.max()) + 1
            packed += column
        if not (packed[1:] >= packed[:-1]).all():
            self._take(np.argsort(packed, kind="stable"))
        del packed
        self._merge_samples()

    def _groups(self) -> NDArray[np.int32]:
        """(rows,) the number of each row's curve, by first appearance."""
        import pandas as pd

        codes: list[tuple[NDArray[Any], int]] = [
            (t.codes, len(t.texts)) for name in _KEYS if (t := self.text.get(name))
        ]
        if self.seed is not None:
            seeds, known = pd.factorize(self.seed)
            codes.append((seeds, len(known)))
        packed = np.zeros(self.rank.size, dtype=np.int64)
        for column, count in codes:
            packed *= count + 1
            packed += column
            packed += 1
        starts = np.append(0, np.flatnonzero(packed[1:] != packed[:-1]) + 1)  # mostly few runs
        numbers = pd.factorize(packed[starts])[0].astype(np.int32)
        return np.repeat(numbers, np.diff(np.append(starts, packed.size)))

    def _take(self, rows: NDArray[np.intp]) -> None:
        self.rank, self.doc, self.group = self.rank[rows], self.doc[rows], self.group[rows]
        self.values = self.values[rows]
        self.seed = None if self.seed is None else self.seed[rows]
        self.ends = [column[rows] for column in self.ends]
        self.amounts = {name: column[rows] for name, column in self.amounts.items()}
        self.text = {name: _Text(t.codes[rows], t.texts) for name, t in self.text.items()}

    def _merge_samples(self) -> None:
        """Average the samples of a document, and refuse what appears twice."""
        new = np.ones(self.rank.size, dtype=bool)
        new[1:] = (np.diff(self.group) != 0) | (np.diff(self.rank) != 0) | (np.diff(self.doc) != 0)
        if new.all():
            return
        starts = np.flatnonzero(new)
        counts = np.diff(np.append(starts, new.size))
        at = starts[np.argmax(counts > 1)]
        cut = next((n for n in _CUTS if n in self.text and len(self.text[n].texts) > 1), None)
        whole = "run.curves" if self.where == FRAME else "the run folder"
        one = f"give {whole}, or select one {cut}" if cut else None
        if not self.documents:
            apart = "keep one, or tell curves apart in a column named adapter, task, metric or seed"
            raise self._error(
                f"{self.label(at)} has rank {self.rank[at]} twice",
                expected="one row for each rank",
                fix=one or apart,
            )
        sample = self.text.get("sample")
        if sample is None:
            raise self._error(
                f"document {self.text['doc_id'][at]!r} appears {counts.max()} times at rank "
                f"{self.rank[at]} of {self.label(at)}",
                expected="one row for each document and rank",
                fix=one or self._apart(),
            )
        place = np.cumsum(new) - 1
        packed = place.astype(np.int64) * (len(sample.texts) + 1) + sample.codes + 1
        if np.unique(packed).size != packed.size:
            raise self._error("a sample of a document appears twice at one rank")
        if counts.min() != counts.max():
            at = starts[np.argmin(counts)]
            raise self._error(
                f"document {self.text['doc_id'][at]!r} has {counts.min()} samples at rank "
                f"{self.rank[at]} of {self.label(at)} and others have {counts.max()}",
                expected="as many samples of every document",
            )
        means = np.add.reduceat(self.values, starts) / counts
        self._take(starts)
        self.values = means

    def _apart(self) -> str:
        """What tells the rows of a document apart, by the columns that are not there."""
        there = {*self.text, *(["seed"] if self.seed is not None else [])}
        plural = {"adapter": "adapters", "task": "tasks", "metric": "metrics"}
        lacks = [name for name in (*plural, "seed") if name not in there]
        what = " and ".join(plural.get(name, "training seeds") for name in lacks)
        column = f"a column named {' or '.join(lacks)}"
        curves = f"{what} are told apart by {column}; " if lacks else ""
        return f"{curves}repeated generations of one training by a column named sample"

    def _error(self, what: str, **more: str | None) -> DataError:
        return DataError(f"{self.where}: {what}", **more)

    def key(self, row: int | np.intp) -> CurveLabels:
        """The labels of a row's curve."""
        labels = cast("CurveLabels", {n: self.text[n][row] for n in _KEYS if n in self.text})
        if self.seed is not None and np.isfinite(self.seed[row]):
            labels["seed"] = int(self.seed[row])
        return labels

    def label(self, row: int | np.intp) -> str:
        """A row's curve in a message."""
        key = self.key(row)
        on = f"on {key['task']}" if key.get("task") else None
        seed = f"seed {key['seed']}" if "seed" in key else None
        parts = (key.get("adapter") or "the adapter", on, key.get("metric"), seed)
        return " ".join(filter(None, parts))

    def curves(self, wanted: WantedMetrics) -> list[Curve]:
        """One curve for each adapter, task, metric and seed."""
        bounds = [*np.flatnonzero(np.diff(self.group, prepend=-1)).tolist(), self.group.size]
        there: dict[str | None, set[str]] = {}
        for start in bounds[:-1]:
            key = self.key(start)
            there.setdefault(key.get("task"), set()).update(filter(None, [key.get("metric")]))
        metrics = {task: wanted.of(task, names) for task, names in there.items()}
        shared: dict[bytes, tuple[str, ...]] = {}
        build = self._document_curve if self.documents else self._point_curve
        curves = []
        for start, stop in pairwise(bounds):
            key = self.key(start)
            metric = metrics.get(key.get("task"))
            if metric is not None and key["metric"] not in (None, metric):
                continue
            try:
                curves.append(build(start, stop, shared))
            except DataError:
                raise
            except AuracError as error:
                raise self._error(f"{self.label(start)}: {error.text}") from error
        return curves

    def _point_curve(self, start: int, stop: int, _: dict[bytes, tuple[str, ...]]) -> Curve:
        """Point values, since means carry no spread; an empty accuracy is a missing rank."""
        pairs = zip(self.rank[start:stop].tolist(), self.values[start:stop].tolist(), strict=True)
        points = {rank: None if np.isnan(value) else value for rank, value in pairs}
        baseline = points.pop(0, None)
        known = {rank: value for rank, value in points.items() if value is not None}
        if not known:
            raise self._error(f"{self.label(start)} has no accuracy at any rank from 1 up")
        missing = {rank: "empty in the table" for rank in points if rank not in known}
        ends = (column[start:stop].tolist() for column in self.ends)
        rows = zip(self.rank[start:stop].tolist(), *ends, strict=True) if self.ends else ()
        intervals = {r: (a, b) for r, a, b in rows if r in known and np.isfinite(a + b)}
        amounts, labels = self._amounts(range(start, stop + 1)), self.key(start)
        y = tuple(known.values())
        curve = Curve(tuple(known), y, baseline=baseline, missing=missing, **labels, **amounts)
        return replace(curve, intervals=intervals)

    def _document_curve(self, start: int, stop: int, shared: dict[bytes, tuple[str, ...]]) -> Curve:
        ranks = self.rank[start:stop]
        cuts = [start + int(i) for i in np.flatnonzero(np.diff(ranks, prepend=-1))] + [stop]
        docs = self.doc[cuts[0] : cuts[1]]
        rows: dict[int, NDArray[np.float64]] = {}
        for a, b in pairwise(cuts):
            if not np.array_equal(self.doc[a:b], docs):
                odd = np.setxor1d(docs, self.doc[a:b])
                raise self._error(
                    f"{self.label(start)} has other documents at ranks {ranks[0]} and "
                    f"{self.rank[a]} ({odd.size} differ, {self.text['doc_id'].texts[odd[0]]!r} "
                    "among them)",
                    expected="the same documents at every rank",
                )
            rows[int(self.rank[a])] = self.values[a:b]
        base = rows.pop(0, None)
        if not rows:
            raise self._error(
                f"{self.label(start)} has rank 0 only",
                expected="ranks from 1",
                fix="give the rows of the base to each adapter and seed, under rank 0",
            )
        outcomes = np.stack(list(rows.values()))
        outcomes.setflags(write=False)
        texts = self.text["doc_id"].texts
        ids = shared.setdefault(docs.tobytes(), tuple(texts[code] for code in docs))
        return Curve.from_outcomes(
            list(rows),
            outcomes,
            doc_ids=ids,
            clusters=self._labels("cluster", cuts, shared),
            strata=self._labels("stratum", cuts, shared),
            base_scores=base,
            **self._amounts(cuts),
            **self.key(start),
        )

    def _amounts(self, cuts: Iterable[int]) -> Amounts:
        """Parameters and bytes by rank, where known; the rows of a rank lie between two cuts."""
        amounts: dict[str, dict[int, float]] = {AMOUNTS[name]: {} for name in self.amounts}
        for a, b in pairwise(cuts):
            for name, column in self.amounts.items() if self.rank[a] else ():
                known = np.unique(column[a:b][np.isfinite(column[a:b])])
                if known.size > 1:
                    raise self._error(
                        f"{self.label(a)} has {known[0]:.0f} and {known[1]:.0f} {name} at rank "
                        f"{self.rank[a]}",
                        expected="the same in every row of a rank",
                    )
                if known.size:
                    amounts[AMOUNTS[name]][int(self.rank[a])] = float(known[0])
        return cast("Amounts", amounts)

    def _labels(
        self, name: str, cuts: list[int], shared: dict[bytes, tuple[str, ...]]
    ) -> tuple[str, ...] | None:
        """The documents' labels, which are the same at every rank; None without any."""
        column, documents = self.text.get(name), self.text["doc_id"]
        if column is None:
            return None
        first = column.codes[cuts[0] : cuts[1]]
        for a, b in pairwise(cuts):
            unlike = np.flatnonzero(column.codes[a:b] != first)
            if unlike.size:
                raise self._error(
                    f"document {documents[a + unlike[0]]!r} of {self.label(a)} has another {name} "
                    f"at rank {self.rank[a]} than at rank {self.rank[cuts[0]]}"
                )
        empty = [code < 0 or is_missing(column.texts[code]) for code in first]
        if all(empty):
            return None
        if any(empty):
            raise self._error(
                f"document {documents[cuts[0] + empty.index(True)]!r} of {self.label(cuts[0])} "
                f"has no {name} ({sum(empty)} of {len(empty)} have none)",
                expected=f"a {name} for every document of a task, or for none",
                fix="give each a label, one of its own where it shares nothing",
            )
        # The same tuple for the same labels, so that curves are joined without comparing text.
        labels = tuple(column.texts[code] for code in first)
        return shared.setdefault(name.encode() + first.tobytes(), labels)
