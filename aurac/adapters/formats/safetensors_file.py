"""Safetensors files read and written one tensor at a time.

The header says where each tensor lies, so that nothing but the tensor at hand is in memory: not the
file either, which is read and written by position and never mapped.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from aurac.adapters.formats.files import reason, regular_file, unique_keys
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEADER_LIMIT: Final = 64 * 2**20

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
    """A file whose header was checked against its size.

    Attributes:
        path: The file.
        outline: Each tensor by name, on the meta device.
    """

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises:
            CheckpointError: When the file is damaged, names a tensor twice, or claims more or less
                than it holds.
        """
        self.path = path
        entries, self._start = _read_header(path)
        _check_with_the_library(path)
        self.outline: dict[str, Tensor] = {}
        self._offsets: dict[str, int] = {}
        for key, entry in entries.items():
            dtype = _DTYPES.get(entry["dtype"])
            if dtype is None:
                raise CheckpointError(f"{key} in {path} is of type {entry['dtype']!r}")
            self.outline[key] = torch.empty(entry["shape"], dtype=dtype, device="meta")
            self._offsets[key] = self._start + entry["data_offsets"][0]

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU, in memory of its own.

        Raises:
            CheckpointError: When the file can no longer be read.
        """
        like = self.outline[key]
        tensor = torch.empty(like.shape, dtype=like.dtype)
        if like.nbytes == 0:
            return tensor
        into = _bytes_of(tensor)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._offsets[key])
                done = 0
                while done < len(into):
                    got = file.readinto(into[done:])
                    if not got:
                        raise CheckpointError(f"{self.path} ends before its tensor {key}")
                    done += got
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {reason(error)}") from error
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


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries of the header and where the data begins."""
    size = regular_file(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise CheckpointError(f"{path} is damaged: its header claims {length} bytes")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has no readable header: {reason(error)}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _check_with_the_library(path: Path) -> None:
    """Let safetensors itself check types, shapes and extents against the file; it reads no data."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {reason(error)}"
        ) from error


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
