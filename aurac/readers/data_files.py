"""Files of rows: JSON Lines, JSON, CSV and Parquet, read whole as rows or by column."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from aurac.arguments import as_fraction
from aurac.errors import DataError, first_line

Row = dict[str, Any]
Choose = Callable[[Sequence[str]], list[str]]


SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
TABLES = (".csv", ".parquet", ".jsonl", ".ndjson")
_BLOCK = 32 * 2**20  # bytes that are parsed at once


def suffix_of(path: Path) -> str:
    """The one of `SUFFIXES` that a file's name ends with; empty where none does."""
    name = path.name.lower()
    return next((s for s in SUFFIXES if name.endswith(s) and name != s), "")


def read_rows(path: Path, *, typed: bool = False) -> list[Row]:
    """The rows of a file whose name ends in one of `SUFFIXES`, in their order.

    Args:
        path: The file.
        typed: The rows are of one table: each has the columns of the first, and the cells of a CSV
            file are numbers, or JSON, where their whole column is; else they are texts.

    Raises:
        DataError: It cannot be read, has no row, or one that is no JSON object of these columns.
    """
    kind = suffix_of(path)
    if kind == ".parquet":
        rows: list[Row] = read_parquet(path).to_pylist()
        return rows
    if kind == ".csv":
        try:
            return _csv_rows(path, typed=typed)
        except (OSError, ValueError, csv.Error) as error:
            raise _unreadable(path, error) from error
    placed = _json_rows(path)
    if not placed:
        raise DataError(f"{path} is empty", expected="at least one document")
    first = placed[0][1]
    for place, row in placed:
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, {place} is a JSON {type(row).__name__}", expected="a JSON object"
            )
        if typed and (absent := [column for column in first if column not in row]):
            raise DataError(
                f"{path}, {place} has no {', '.join(map(repr, absent))}",
                expected=f"the columns of the first one ({', '.join(first)})",
            )
    return [row for _, row in placed]


def _text(path: Path) -> str:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({first_line(error)})", expected="UTF-8 text"
        ) from error


def _json_rows(path: Path) -> list[tuple[str, Any]]:
    """Where each row stands, and the row; hubs have JSON Lines under the name .json, too."""
    text = _text(path)
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
        raise DataError(
            f"{path}, line {number + error.lineno - 1} is not JSON "
            f"({error.msg} at character {error.colno})",
            expected="one JSON object on each line, or in a .json file a list of objects",
        ) from error


def _csv_rows(path: Path, *, typed: bool) -> list[Row]:
    """Rows of texts; typed, numbers as pandas knows them.

    No cell is taken for a missing number: "NA", "null" and "None" are words of a language too.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows: list[Row] = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num} has more or fewer cells than the first",
                    fix="correct the line",
                )
            rows.append(row)
    if reader.fieldnames is None:
        raise ValueError("it is empty")
    if not typed or not rows:
        return rows
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    columns = [_nested(frame[name].tolist()) for name in frame.columns]
    return [dict(zip(frame.columns, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _nested(cells: list[Any]) -> list[Any]:
    """Cells that are all JSON lists or objects, parsed; others as they are."""
    if not all(str(cell).startswith(("{", "[")) for cell in cells):
        return cells
    try:
        return [json.loads(cell) for cell in cells]
    except json.JSONDecodeError:
        return cells


def read_parquet(path: Path, columns: list[str] | None = None, texts: Container[str] = ()) -> Any:
    """An Arrow table of all columns or some; those named in `texts` are dictionary-encoded."""
    import pyarrow as pa
    from pyarrow import parquet

    encoded = [name for name in columns or () if name in texts]
    try:
        with parquet.ParquetFile(path, read_dictionary=encoded) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _unreadable(path, error) from error


def read_columns(path: Path, choose: Choose, texts: Container[str]) -> Any:
    """Some columns of a file whose name ends in one of `TABLES`, as an Arrow table.

    Args:
        path: The file; it may have millions of rows.
        choose: From the names of all columns to those that are read.
        texts: Which are text; all others of a CSV file are numbers.

    Raises:
        DataError: It cannot be read, or `choose` refuses it.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json
    from pyarrow import parquet

    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return read_parquet(path, choose(parquet.read_schema(path).names), texts)
        if kind == ".csv":
            return _csv_columns(path, choose, texts)
        options = arrow_json.ReadOptions(block_size=_BLOCK)
        table = arrow_json.read_json(path, read_options=options)
        return table.select(choose(table.column_names))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _csv_columns(path: Path, choose: Choose, texts: Container[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with path.open(encoding="utf-8-sig", errors="strict") as stream:
        header = stream.readline(1_000_000).strip()
    names = [name.strip().strip('"') for name in header.split(",")]
    used = choose(names)
    text = pa.dictionary(pa.int32(), pa.string())
    types = {name: text if name in texts else pa.float64() for name in used}
    try:
        return arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK, column_names=names, skip_rows=1),
            convert_options=arrow_csv.ConvertOptions(column_types=types, include_columns=used),
        )
    except pa.ArrowInvalid as error:
        column = re.search(r"CSV column #(\d+): .* invalid value", str(error))
        if column is None:
            raise
        raise no_number(str(path), names[int(column[1])], error) from None


def no_number(where: str, name: str, error: Exception) -> DataError:
    """Arrow's refusal of a column, with the cell that it names and what to write there."""
    cell = re.search("'(.*)'", first_line(error))
    given = f"{where}, column {name}: a cell is no number" + (f": {cell[1]!r}" if cell else "")
    written = as_fraction(cell[1]) if cell else None
    fix = written and f"{written} there, and fractions in all rows"
    such = "whole numbers such as 4" if name in ("rank", "seed") else "numbers such as 0.4"
    return DataError(given, expected=such, fix=fix)


def _unreadable(path: Path, error: Exception) -> DataError:
    kind = path.suffix.removeprefix(".")
    comma = "write decimals with points, and texts with commas in quotes"
    return DataError(
        f"{path} cannot be read as {kind} ({first_line(error)[:200]})",
        fix=comma if "Expected" in str(error) and kind == "csv" else None,
    )


def cached_size(path: str | None, subset: str | None, split: str | None) -> int | None:
    """Documents of a split whose data set the cache of `datasets` holds; None where it is not."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    root = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()
    folder = root / str(path).replace("/", "___").lower() / (subset or "default")
    for file in sorted(folder.glob("*/*/dataset_info.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(file.read_text("utf-8"))["splits"][split]["num_examples"])
    return None
