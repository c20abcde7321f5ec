"""Reading tensors and JSON from files that nobody vouches for.

Nothing is executed (``weights_only``), no allocation follows a header that the file does not back,
and every fault becomes one :class:`~aurac.errors.CheckpointError`.
"""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
JSON_LIMIT = (
    16 * 2**20
)  # an adapter_config.json is a few kB; this bounds what a file can make us parse
HEADER_LIMIT = 64 * 2**20


def regular_file(path: Path) -> int:
    """The size of ``path`` in bytes.

    Raises:
        CheckpointError: When it is missing, unreadable, a loop of links or not a regular file.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {_reason(error)}") from error
    if not stat.S_ISREG(info.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return info.st_size


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: When it cannot be read, is too large, or is no JSON object.
    """
    if regular_file(path) > JSON_LIMIT:
        raise CheckpointError(f"{path} is larger than {JSON_LIMIT // 2**20} MB")
    try:
        value = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {_reason(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors`` file or a torch archive, on the CPU.

    Raises:
        CheckpointError: When the file is damaged, is neither format, or claims more than it holds.
    """
    if regular_file(path) == 0:
        raise CheckpointError(f"{path} is empty")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def check_factor(tensor: Tensor, key: str, where: object) -> Tensor:
    """``tensor`` itself when it can serve as a factor.

    Raises:
        CheckpointError: For a type other than a 16 to 64 bit float, an empty tensor, NaN or inf.
    """
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"{key} in {where} is of type {str(tensor.dtype).removeprefix('torch.')}",
            expected="float32, bfloat16, float16 or float64",
        )
    if tensor.numel() == 0:
        raise CheckpointError(f"{key} in {where} is empty, shape {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{key} in {where} holds NaN or infinite values")
    return tensor


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_safetensors_header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {_reason(error)}"
        ) from error


def _check_safetensors_header(path: Path) -> None:
    """Refuse a header that is larger than the file, no JSON, or names a tensor twice."""
    size = regular_file(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise CheckpointError(f"{path} is damaged: its header claims {length} bytes")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has no readable header: {_reason(error)}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object")


def _read_torch(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        AssertionError,
        RecursionError,
        OverflowError,
        MemoryError,
        ImportError,
        UnicodeError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be loaded as weights only: {_reason(error)}",
            fix="nothing in it was executed; save it again as safetensors",
        ) from error
    return _only_tensors(loaded, path)


def _check_archive(path: Path) -> None:
    """Refuse what is no zip archive of stored (not deflated) records that fit into the file."""
    size = regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a torch archive: {_reason(error)}",
            expected="a file that torch.save of version 1.6 or later wrote, or .safetensors",
        ) from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"{path} is a compressed archive, which torch.save never writes")
    names = [record.filename for record in records]
    if len(set(names)) != len(names) or sum(record.file_size for record in records) > size:
        raise CheckpointError(f"{path} is a damaged archive: its records overlap")


def _only_tensors(loaded: object, path: Path) -> dict[str, Tensor]:
    """Names to tensors, unwrapped from ``model_state_dict`` or ``state_dict``."""
    for wrapper in ("model_state_dict", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}", expected="a state dict")
    tensors: dict[str, Tensor] = {}
    for key, value in loaded.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path} has a key of type {type(key).__name__}")
        if isinstance(value, Tensor):
            tensors[key] = _backed(value, key, path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return tensors


def _backed(tensor: Tensor, key: str, path: Path) -> Tensor:
    """``tensor`` when each of its elements is one of its storage: no shape larger than the data."""
    plain = (
        tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    )
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{key} in {path} claims a shape that the file does not hold")
    return tensor.detach()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _reason(error: BaseException) -> str:
    """The first line of an error, short enough for a one-line message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def finite_number(value: object) -> bool:
    """Whether ``value`` is an int or float (no bool) and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
