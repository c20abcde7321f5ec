"""What every reader of a file that nobody vouches for asks first."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def regular_file(path: Path) -> int:
    """The size of ``path`` in bytes.

    Raises:
        CheckpointError: When it is missing, unreadable, a loop of links or not a regular file.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    if not stat.S_ISREG(info.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return info.st_size


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of ``pairs``; a key that occurs twice is a ``ValueError``."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a one-line message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
