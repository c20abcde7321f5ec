"""Arrow columns → numbers and codes, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = ("adapter", "task", "metric", "seed")
Key = tuple[str | None, ...]


@dataclass
class Coder:
    """Text → small whole numbers, the same over all batches."""

    codes: dict[Any, int] = field(default_factory=dict)

    def encode(self, column: Any) -> NDArray[np.int32]:
        """Codes of an Arrow column; a null is a value of its own."""
        import pyarrow as pa

        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):  # combine_chunks of no chunks
            array = pa.concat_arrays(array.chunks)
        encoded = (
            array
            if pa.types.is_dictionary(array.type)
            else array.dictionary_encode(null_encoding="encode")
        )
        words = encoded.dictionary.cast(pa.string()).to_pylist()
        local = np.array([self.codes.setdefault(w, len(self.codes)) for w in words], dtype=np.int32)
        indices = encoded.indices
        if indices.null_count:
            none = self.codes.setdefault(None, len(self.codes))
            local = np.append(local, np.int32(none))
            indices = indices.fill_null(len(words))
        return np.asarray(local[indices.to_numpy(zero_copy_only=False)])

    def words(self) -> list[Any]:
        """The text of each code."""
        return list(self.codes)


def number_column(column: Any, name: str, where: str) -> NDArray[np.float64]:
    """An Arrow column as float64.

    Raises:
        DataError: A value is missing or not a number.
    """
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"{where} has {column.null_count} rows without a {name} (empty or NaN)")
    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException:
        raise DataError(f"{where} has a {name} that is not a number") from None
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise DataError(f"{where} has a {name} of {bad}", expected="finite numbers")
    return values


def whole_column(column: Any, name: str, where: str) -> NDArray[np.int32]:
    """An Arrow column as whole numbers.

    Raises:
        DataError: One that is not, or below 0.
    """
    values = number_column(column, name, where)
    wrong = values[(values != np.floor(values)) | (values < 0) | (values > 2**30)]
    if wrong.size:
        raise DataError(f"{where} has a {name} of {wrong[0]:g}", expected="whole numbers from 0 up")
    return values.astype(np.int32)


def label_of(key: Key) -> str:
    """A curve's name in a message."""
    adapter, task, metric, seed = key
    parts = [adapter or "the adapter", f"on {task}" if task else "", metric or ""]
    if seed is not None:
        parts.append(f"seed {seed}")
    return " ".join(part for part in parts if part)


def seed_of(text: str | None) -> int | None:
    """A seed column's text as a whole number.

    Raises:
        DataError: It is not one.
    """
    if text is None:
        return None
    try:
        return int(float(text))
    except ValueError:
        raise DataError(f"seed {text!r}", expected="a whole number") from None
