"""Tables in bounded memory: csv, parquet and jsonl files as a stream of Arrow batches."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST = 2_000_000_000  # bytes; beyond it a table belongs split by task, or in parquet
BLOCK = 32 * 2**20
TEXT = ("adapter", "task", "doc_id", "cluster", "stratum", "metric", "sample")
NUMBERS = ("score", "accuracy")
COLUMNS = (*TEXT, *NUMBERS, "rank", "seed")


def batches(path: Path) -> Iterator[Any]:
    """The known columns of a table, a batch of rows at a time.

    Yields:
        Arrow tables with some of `COLUMNS`.

    Raises:
        DataError: Empty, too large, without the columns, or not of the kind its name says.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty")
    if size >= LARGEST:
        raise DataError(
            f"{path} has {size / 1e9:.1f} GB",
            expected=f"less than {LARGEST / 1e9:.0f} GB",
            fix="split it by task, or write it as parquet",
        )
    import pyarrow as pa

    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    try:
        yield from readers[path.suffix.lower()](path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0][:200]
        raise DataError(f"{path} cannot be read ({first})") from error


def check_columns(names: list[str], where: str) -> None:
    """Refuse a table without a rank and a score.

    Raises:
        DataError: Says which columns there are.
    """
    twice = {n for n in names if names.count(n) > 1 and n in COLUMNS}
    if twice:
        raise DataError(f"{where} has two columns named {min(twice)}")
    if "rank" in names and ("accuracy" in names or {"doc_id", "score"} <= set(names)):
        return
    shown = ", ".join(names[:10]) or "none"
    raise DataError(
        f"{where} has columns {shown}",
        expected="adapter, task, rank, doc_id, score, or rank and accuracy",
    )


def _csv(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    with path.open(encoding="utf-8-sig", errors="strict") as stream:
        header = stream.readline(1_000_000).strip()
    names = [name.strip().strip('"') for name in header.split(",")]
    check_columns(names, str(path))
    types: dict[str, Any] = {name: pa.string() for name in TEXT}
    types |= {name: pa.float64() for name in (*NUMBERS, "rank", "seed")}
    known = [name for name in names if name in COLUMNS]
    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=BLOCK, column_names=names, skip_rows=1),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=known),
    )
    with reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    names = list(parquet.read_schema(path).names)
    check_columns(names, str(path))
    known = [name for name in names if name in COLUMNS]
    # Text stays a dictionary: a leaderboard's documents are few and its rows are many.
    words = [name for name in known if name in TEXT]
    with parquet.ParquetFile(path, read_dictionary=words) as file:
        for batch in file.iter_batches(batch_size=1_000_000, columns=known):
            yield pa.Table.from_batches([batch])


def _jsonl(path: Path) -> Iterator[Any]:
    from pyarrow import json

    with path.open("rb") as stream:
        while block := stream.readlines(BLOCK):
            table = json.read_json(io.BytesIO(b"".join(block)))
            check_columns(table.column_names, str(path))
            yield table.select([n for n in table.column_names if n in COLUMNS])
