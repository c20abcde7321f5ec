"""Files of rows: JSON Lines, JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
            file are numbers, or JSON, where their whole column is. Otherwise they are texts.

    Raises:
        DataError: It cannot be read, has no row, or one that is no JSON object of these columns.
    """
    kind = suffix_of(path)
    if kind == ".parquet":
        return list(read_parquet(path).to_pylist())
    if kind == ".csv":
        return _csv_rows(path, typed=typed)
    placed = _json_rows(path)
    if not placed:
        raise DataError(f"{path} is empty.")
    first = placed[0][1]
    for place, row in placed:
        if not isinstance(row, dict):
            raise DataError(f"{path}, {place} is a JSON {type(row).__name__}, not an object.")
        if typed and (absent := [column for column in first if column not in row]):
            raise DataError(f"{path}, {place} has no {', '.join(map(repr, absent))} as the first.")
    return [row for _, row in placed]


def read_frame(path: Path) -> pd.DataFrame:
    """The rows of a file as a frame; the cells of a CSV file are texts.

    Raises:
        DataError: It cannot be read, or has a row that is no JSON object.
    """
    import pandas as pd

    if suffix_of(path) == ".parquet":
        return read_parquet(path).to_pandas()  # type: ignore[no-any-return]
    return _read_csv(path) if suffix_of(path) == ".csv" else pd.DataFrame(read_rows(path))


def _json_rows(path: Path) -> list[tuple[str, Any]]:
    """Where each row stands, and the row; hubs have JSON Lines under the name .json, too."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}).") from error
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


def _read_csv(path: Path, kinds: Any = str) -> pd.DataFrame:
    """The cells of a CSV file as texts, or of the `kinds` of their columns as pandas knows them.

    No cell is taken for a missing number: "NA", "null" and "None" are words of a language too.
    """
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            width = len(next(reader, ()))
            for row in reader:
                if row and len(row) != width:
                    where = f"{path}, line {reader.line_num}"
                    raise DataError(f"{where} has more or fewer cells than the first.")
        return pd.read_csv(
            path, dtype=kinds, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _csv_rows(path: Path, *, typed: bool) -> list[Row]:
    """Rows of texts; typed, by the types of the columns. One with a number such as 007 is text."""
    frame = _read_csv(path)
    if typed:
        padded = {name for name in frame if frame[name].str.match(r"[+-]?0\d").any()}
        frame = _read_csv(path, dict.fromkeys(padded, str))
    names = [str(name) for name in frame]
    columns = [frame[name].tolist() for name in names]
    columns = [_nested(cells) for cells in columns] if typed else columns
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _nested(cells: list[Any]) -> list[Any]:
    """Cells that are all JSON lists or objects, parsed; others as they are."""
    if not all(str(cell).startswith(("{", "[")) for cell in cells):
        return cells
    try:
        return [json.loads(cell) for cell in cells]
    except json.JSONDecodeError:
        return cells


def read_parquet(path: Path) -> Any:
    """An Arrow table."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    kind = path.suffix.removeprefix(".")
    return DataError(f"{path} cannot be read as {kind} ({first_line(error)[:200]}).")
