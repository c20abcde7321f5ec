"""Safetensors files read and written one tensor at a time.

The library reads and checks; it writes only what is in memory as a whole, so writing is done here.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aurac.adapters.formats.files import reason, regular_file
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EXPECTED: Final = "float32, bfloat16, float16 or float64"
FLOATS: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
}
FAULTS: Final = (
    *(SafetensorError, OSError, RuntimeError, MemoryError, OverflowError),
    *(ValueError, KeyError, AttributeError, TypeError),
)

# In the order in which the format sorts its tensors: the widest types first.
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER: Final = {dtype: k for k, dtype in enumerate(_NAMES)}


class SafetensorsFile:
    """A file whose header the safetensors library has checked against its size."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its header; no tensor is read.

        Raises:
            CheckpointError: When the file is damaged or claims more or less than it holds.
        """
        regular_file(path)
        self.path = path
        try:
            # Not mapped: pages of a mapped file count as memory, and one that shrinks kills.
            self._file = safe_open(path, framework="pt", backend="pread")
            self.keys: list[str] = list(self._file.keys())
        except FAULTS as error:
            raise CheckpointError(
                f"{path} is not a readable safetensors file: {reason(error)}"
            ) from error

    def outline(self) -> dict[str, Tensor]:
        """Each tensor by name, on the meta device.

        Raises:
            CheckpointError: For a type that no adapter has.
        """
        outline: dict[str, Tensor] = {}
        for key in self.keys:
            entry = self._file.get_slice(key)
            dtype = FLOATS.get(entry.get_dtype())
            if dtype is None:
                raise CheckpointError(
                    f"{key} in {self.path} is of type {entry.get_dtype()}", expected=EXPECTED
                )
            outline[key] = torch.empty(entry.get_shape(), dtype=dtype, device="meta")
        return outline

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU, in memory of its own.

        Raises:
            CheckpointError: When the file can no longer be read.
        """
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except FAULTS as error:
            raise CheckpointError(
                f"cannot read {self.path}: {reason(error)}", fix="copy or download the file again"
            ) from error
        return tensor


class Span(NamedTuple):
    """Where a tensor goes in a file that is being written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class SafetensorsWriter:
    """A file that is written tensor by tensor, in any order, under a header computed beforehand.

    Its bytes are those that the safetensors library writes for the same tensors. It is open only
    while it is written to, so that any number of files can be in the making at once.
    """

    def __init__(
        self, path: Path, outline: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Make the file with its header.

        Args:
            path: Where to; replaced if it is there.
            outline: A tensor for each name, of which form alone counts (the meta device will do).
            metadata: What the header says beside them.

        Raises:
            OSError: When the file cannot be written.
        """
        header, self._spans, size = _layout(outline, metadata)
        self._path = path
        self._missing = {key for key, span in self._spans.items() if math.prod(span.shape)}
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)

    def put(self, key: str, tensor: Tensor) -> None:
        """Write one tensor to its place.

        Raises:
            ValueError: For a name or a form that the header does not have.
            OSError: When the file system refuses.
        """
        span = self._spans[key]
        if tensor.dtype != span.dtype or tuple(tensor.shape) != span.shape:
            raise ValueError(f"{key} is {tensor.dtype} of {tuple(tensor.shape)}, not {span}")
        if math.prod(span.shape):
            view = _bytes_of(tensor.detach().cpu().contiguous())
            with self._path.open("r+b", buffering=0) as file:
                file.seek(span.offset)
                while view:
                    view = view[file.write(view) :]
        self._missing.discard(key)

    def finish(self) -> None:
        """Hold the file against its header.

        Raises:
            ValueError: When a tensor was not written.
        """
        if self._missing:
            raise ValueError(f"{len(self._missing)} tensors were not written: {min(self._missing)}")


def _layout(
    outline: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Span], int]:
    """The header with its length in front, where each tensor goes, and the size of the file."""
    ordered = sorted(outline, key=lambda key: (_ORDER[outline[key].dtype], key))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key in ordered:
        tensor = outline[key]
        entries[key] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    spans = {
        key: Span(t.dtype, tuple(t.shape), start + entries[key]["data_offsets"][0])
        for key, t in outline.items()
    }
    return len(text).to_bytes(8, "little") + text, spans, start + end


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor that is not empty."""
    return tensor.view(-1).view(torch.uint8).numpy().data
