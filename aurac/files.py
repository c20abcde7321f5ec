"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write to a temporary sibling, flush it to disk, and move it over `path`.

    Raises:
        OSError: The folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp makes files that only their owner can read
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused.

    Raises:
        ValueError: `value` holds a number that JSON cannot.
        OSError: See `write_atomic`.
    """
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
