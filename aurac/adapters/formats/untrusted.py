"""Checks of what untrusted files hold; every fault becomes one CheckpointError."""

from __future__ import annotations

import json
import math
import stat
from typing import TYPE_CHECKING, Any, Final

import torch

from aurac.adapters.linalg import all_finite
from aurac.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

# The types that factors may have, by their names in safetensors and in the order of its files.
FLOATS: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
# An adapter_config.json is a few kB.
JSON_LIMIT = 16 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, which may not be larger than `JSON_LIMIT`."""
    if regular_file(path) > JSON_LIMIT:
        raise CheckpointError(f"{path} is larger than {JSON_LIMIT // 2**20} MB")
    try:
        value = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_constant=_refuse_constant,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {reason(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value


def check_fields(
    record: Mapping[str, Any],
    fields: Mapping[str, tuple[str, Callable[[Any], bool]]],
    where: object,
) -> None:
    """Check the ``fields`` that ``record`` sets: what each should be, in words and as a test."""
    for key, (expected, accepts) in fields.items():
        value = record.get(key)
        if value is not None and not accepts(value):
            raise CheckpointError(f"{where} gives {key} = {value!r}"[:300], expected=expected)


def check_factor(tensor: Tensor, key: str, where: object) -> Tensor:
    """``tensor`` itself if it can serve as a factor: a 16 to 64 bit float, finite, not empty.

    On the meta device type and shape alone are checked.
    """
    if tensor.dtype not in FLOATS.values():
        raise wrong_type(tensor.dtype, key, where)
    if tensor.numel() == 0:
        raise CheckpointError(f"{key} in {where} is empty, shape {tuple(tensor.shape)}")
    if not tensor.is_meta and not all_finite(tensor):
        raise CheckpointError(f"{key} in {where} holds NaN or infinite values")
    return tensor


def wrong_type(dtype: torch.dtype, key: str, where: object) -> CheckpointError:
    """The error of a tensor whose type no factor has."""
    return CheckpointError(
        f"{key} in {where} is of type {str(dtype).removeprefix('torch.')}",
        expected="float32, bfloat16, float16 or float64",
    )


def finite_number(value: object) -> bool:
    """Whether ``value`` is an int or float (no bool) and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def regular_file(path: Path) -> int:
    """The size of ``path`` in bytes; refused unless it is a regular file."""
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    if not stat.S_ISREG(info.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return info.st_size


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a one-line message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)[:200]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of ``pairs``; a key that occurs twice is a ``ValueError``."""
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} occurs twice")
        unique[key] = value
    return unique


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
