"""Tables of other tools → curves: csv, parquet and jsonl files, and DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aurac.curves.checks import whole_rank
from aurac.curves.curve import Curve
from aurac.curves.metrics import wanted_metrics
from aurac.errors import AuracError, CurveError, DataError, first_line
from aurac.readers.data_files import read_frame

KEYS = ("adapter", "task", "metric", "basis", "rescale", "seed")
TEXTS = (
    *("adapter", "task", "metric", "basis", "rescale", "method"),
    *("doc_id", "doc_hash", "cluster", "sample"),
)
WHOLE = ("rank", "seed", "bytes", "trained_rank")
NUMBERS = ("score", "accuracy", *WHOLE)


def read_table(path: Path, metric: Mapping[str, str] | None = None) -> list[Curve]:
    """Curves of a table file."""
    return curves_from_frame(read_frame(path), metric, path.name)


def curves_from_frame(
    frame: pd.DataFrame, metric: Mapping[str, str] | None = None, name: str = "the table"
) -> list[Curve]:
    """Curves of a DataFrame with the columns of a table file (`aurac.readers.read_curves`).

    Raises:
        DataError: Columns are missing, a number is none, or examples are missing or appear twice.
    """
    if "doc_id" not in frame:
        frame = frame.rename(columns={"example": "doc_id"})
    columns = [str(column) for column in frame.columns]
    examples = {"doc_id", "score"} <= set(columns)
    if "rank" not in columns or not (examples or "accuracy" in columns):
        raise DataError(
            f"{name} has columns {', '.join(columns[:10])}; a table has rank and accuracy, or "
            "rank, example and score."
        )
    if frame.empty:
        raise DataError(f"{name} has no rows.")
    table = _typed(frame, columns, name, "score" if examples else "accuracy")
    keys = [key for key in KEYS if key in table and table[key].notna().any()]
    table = _with_shared_base(table, keys)
    there: dict[str, set[str]] = {}
    if "metric" in keys:
        pairs = table[["task", "metric"]] if "task" in table else table[["metric"]].assign(task="")
        for task, one in pairs.drop_duplicates().itertuples(index=False):
            there.setdefault(str(task), set()).add(str(one))
    chosen = wanted_metrics(metric or {}, there)
    curves = []
    grouped: Any = (
        table.groupby(keys, sort=False, dropna=False, observed=True) if keys else [((), table)]
    )
    for values, rows in grouped:
        labels = {k: None if pd.isna(v) else v for k, v in zip(keys, values, strict=True)}
        wanted = chosen.get(labels.get("task") or "")
        if wanted is None or labels.get("metric") == wanted:
            which = ", ".join(str(v) for v in labels.values() if v is not None) or "its curve"
            curves.append(_curve(rows, labels, f"{name}, {which}", examples=examples))
    return curves


def _with_shared_base(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows of rank 0 that name no adapter, for every adapter, as `Run.samples` has them."""
    own = [key for key in keys if key not in ("task", "metric")]
    lone = (table["rank"] == 0) & table[own].isna().all(axis=1)
    shared = [key for key in keys if key not in own and table.loc[lone, key].notna().all()]
    if not own or lone.all() or not lone.any():
        return table
    rest, base = table[~lone], table[lone].drop(columns=[key for key in keys if key not in shared])
    each = rest[keys].drop_duplicates()
    bases = each.merge(base, on=shared) if shared else each.merge(base, how="cross")
    return pd.concat([bases, rest], ignore_index=True)


def _typed(frame: pd.DataFrame, columns: list[str], name: str, value: str) -> pd.DataFrame:
    """The columns that are used, texts as categories, numbers as float64."""
    table: dict[str, Any] = {}
    for column in columns:
        if column in TEXTS:
            values = frame[column].astype(object)
            known = values.where(values.notna() & (values != ""), None)
            table[column] = known.map(str, na_action="ignore").astype("category")
        elif column in NUMBERS:
            try:
                table[column] = pd.to_numeric(frame[column]).astype("float64")
                for number in table[column].dropna().unique().tolist() if column in WHOLE else ():
                    whole_rank(number, "The number")
            except (TypeError, ValueError, CurveError) as error:
                raise DataError(f"{name}, column {column}: {first_line(error)}") from error
    for column in ("rank", *(["score", "doc_id"] if value == "score" else [])):
        empty = pd.isna(table[column]).to_numpy()
        if empty.any():
            text = f"{name} has {int(empty.sum())} rows without a {column}, the first in data row "
            raise DataError(f"{text}{int(empty.argmax()) + 1}.")
    return pd.DataFrame(table).astype({"rank": "int64"})


def _curve(rows: pd.DataFrame, labels: dict[str, Any], where: str, *, examples: bool) -> Curve:
    if labels.get("seed") is not None:
        labels["seed"] = int(labels["seed"])
    if "bytes" in rows:
        known = rows[rows["bytes"].notna() & (rows["rank"] > 0)]
        sizes = zip(known["rank"].tolist(), known["bytes"].tolist(), strict=True)
        labels["sizes"] = {rank: int(size) for rank, size in sizes}
    for column in ("method", "trained_rank"):
        if column in rows and rows[column].notna().any():
            found = rows[column].dropna().iloc[0]
            labels[column] = str(found) if column == "method" else int(found)
    try:
        return (_of_examples if examples else _of_points)(rows, labels)
    except AuracError as error:
        raise DataError(f"{where}: {error}") from error


APART = "tell curves apart in a column named adapter, task, metric, basis or seed"


def _of_points(rows: pd.DataFrame, labels: dict[str, Any]) -> Curve:
    """Accuracies alone; an empty one is a missing rank."""
    if rows["rank"].duplicated().any():
        twice = rows["rank"][rows["rank"].duplicated()].iloc[0]
        raise CurveError(f"rank {twice} appears twice: {APART}.")
    points = dict(zip(rows["rank"].tolist(), rows["accuracy"].tolist(), strict=True))
    known = {rank: value for rank, value in points.items() if not np.isnan(value)}
    missing = {rank: "empty in the table" for rank in points if rank and rank not in known}
    base = known.pop(0, None)
    return Curve(tuple(known), tuple(known.values()), baseline=base, missing=missing, **labels)


def _of_examples(rows: pd.DataFrame, labels: dict[str, Any]) -> Curve:
    """A score of each example at each rank; samples of an example are averaged."""
    key = ["rank", "doc_id", *(["sample"] if "sample" in rows else [])]
    if rows.duplicated(key).any():
        twice = rows[rows.duplicated(key)].iloc[0]
        which = f"example {twice['doc_id']!r} appears twice at rank {twice['rank']}"
        raise CurveError(f"{which}: {APART}, and repeated generations in one named sample.")
    each = rows.groupby(["rank", "doc_id"], sort=False, observed=True)["score"]
    if each.size().nunique() > 1:
        raise CurveError("examples have unequal numbers of samples.")
    scores: dict[int, dict[str, float]] = {}
    means: Any = each.mean().items()
    for (rank, example), mean in means:
        scores.setdefault(rank, {})[example] = mean
    examples = next((row for rank, row in scores.items() if rank), {})
    shared = {name: _label(rows, column, examples) for name, column in LABELS.items()}
    return Curve.from_examples(scores, **shared, **labels)


LABELS = {"clusters": "cluster", "doc_hashes": "doc_hash"}


def _label(rows: pd.DataFrame, column: str, examples: Iterable[str]) -> tuple[str, ...] | None:
    """What examples have, the same at every rank; None where the column is empty."""
    if column not in rows or rows[column].isna().all():
        return None
    pairs = rows[["doc_id", column]].drop_duplicates()
    wrong = pairs[column].isna() | pairs["doc_id"].duplicated()
    if wrong.any():
        what = {"doc_hash": "text and prompt"}.get(column, column)
        raise CurveError(
            f"example {pairs['doc_id'][wrong].iloc[0]!r} needs one {what}, the same at every rank."
        )
    return tuple(pairs.set_index("doc_id")[column].astype(str)[list(examples)])
