"""Files of rows: JSON Lines, JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")


def suffix_of(path: Path) -> str:
    """The one of `SUFFIXES` that a file's name ends with; empty where none does."""
    name = path.name.lower()
    return next((s for s in SUFFIXES if name.endswith(s) and name != s), "")


def read_rows(path: Path, *, typed: bool = False) -> list[Row]:
    """The rows of a file whose name ends in one of `SUFFIXES`, in their order.

    Args:
        path: The file.
        typed: The rows are of one table: each has the columns of the first, and the cells of a CSV
            file are numbers, lists or objects, where their whole column is JSON of that kind.
            Otherwise they are texts.

    Raises:
        DataError: It cannot be read, has no row, or one that is no JSON object of these columns.
    """
    kind = suffix_of(path)
    try:
        placed = {".parquet": _parquet_rows, ".csv": _csv_rows}.get(kind, _json_rows)(path)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
        why = first_line(error)[:200]
        raise DataError(f"{path} cannot be read as {kind.lstrip('.')} ({why}).") from error
    rows = [row for _, row in placed]
    if not rows:
        raise DataError(f"{path} is empty.")
    for place, row in placed:
        if not isinstance(row, dict):
            raise DataError(f"{path}, {place} is a JSON {type(row).__name__}, not an object.")
        if typed and (absent := [column for column in rows[0] if column not in row]):
            raise DataError(f"{path}, {place} has no {', '.join(map(repr, absent))} as the first.")
    if typed and kind == ".csv":
        for name in rows[0]:
            for row, value in zip(rows, _typed([row[name] for row in rows]), strict=True):
                row[name] = value
    return rows


def read_frame(path: Path) -> pd.DataFrame:
    """The rows of a file as a frame; the cells of a CSV file are texts.

    Raises:
        DataError: As `read_rows`.
    """
    import pandas as pd

    return pd.DataFrame(read_rows(path))


Placed = list[tuple[str, Any]]
"""Where each row stands, and the row."""


def _json_rows(path: Path) -> Placed:
    """Hubs have JSON Lines under the name .json, too."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        text = file.read()
    if suffix_of(path) == ".json" and text.lstrip().startswith("["):
        rows = _parsed(path, text, 1)
        return [(f"entry {number}", row) for number, row in enumerate(rows, start=1)]
    lines = enumerate(text.split("\n"), start=1)
    return [(f"line {n}", _parsed(path, line, n)) for n, line in lines if line.strip()]


def _parsed(path: Path, text: str, number: int) -> Any:
    """JSON that begins at a line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {number + error.lineno - 1}"
        reason = f"{error.msg.removesuffix(' at')} at character {error.colno}"
        raise DataError(
            f"{where} is not JSON ({reason}); JSON Lines have one "
            "object on each line, a .json file may be a list of objects."
        ) from error


def _csv_rows(path: Path) -> Placed:
    """Rows of texts: "NA", "null" and "None" are words of a language, too."""
    placed: Placed = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row or None in row.values():
                where = f"{path}, line {reader.line_num}"
                raise DataError(f"{where} has more or fewer cells than the first.")
            placed.append((f"line {reader.line_num}", row))
    return placed


def _typed(cells: list[str]) -> list[Any]:
    """Cells of a column as numbers, lists or objects, where all are; 007 is none."""
    try:
        values = [msgspec.json.decode(cell) for cell in cells]
    except msgspec.DecodeError:
        return cells
    return values if all(isinstance(v, int | float | list | dict) for v in values) else cells


def _parquet_rows(path: Path) -> Placed:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        rows = file.read().to_pylist()
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]
