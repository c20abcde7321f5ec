"""Content hashes: of files, of canonical JSON, and of the tensors of a model folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 1 << 22


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8, no NaN)."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _tensor_spans(path: Path) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    """(name, dtype, shape, start, end) of each tensor of a safetensors file, offsets absolute."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > size - 8:
            raise ValueError(f"{path.name}: its header is longer than the file")
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    spans = []
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        spans.append(
            (name, entry["dtype"], tuple(entry["shape"]), 8 + length + start, 8 + length + end)
        )
    return spans


def sha256_weights(folder: Path) -> str:
    """Hex SHA-256 of a model folder's weights.

    For safetensors the hash runs over (name, dtype, shape, bytes) in the order of names, so that
    neither sharding nor file metadata changes it. Without safetensors it runs over the bytes of
    `pytorch_model*.bin` in the order of file names.

    Raises:
        FileNotFoundError: The folder holds no weights.
        ValueError: A safetensors file is damaged.
    """
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        files = sorted(folder.glob("pytorch_model*.bin"))
        if not files:
            raise FileNotFoundError(f"no weights (*.safetensors, pytorch_model*.bin) in {folder}")
        for path in files:
            digest.update(path.name.encode())
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()
    spans = sorted((span, path) for path in files for span in _tensor_spans(path))
    with contextlib.ExitStack() as stack:
        handles = {path: stack.enter_context(path.open("rb")) for path in files}
        for (name, dtype, shape, start, end), path in spans:
            digest.update(f"{name}\0{dtype}\0{shape}\0".encode())
            handle = handles[path]
            handle.seek(start)
            left = end - start
            while left > 0:
                chunk = handle.read(min(CHUNK, left))
                if not chunk:
                    raise ValueError(f"{path.name}: tensor {name} ends beyond the file")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()
