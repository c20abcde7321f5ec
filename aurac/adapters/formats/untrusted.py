"""Reading JSON and tensors from untrusted files.

Nothing is executed (``weights_only``), no allocation follows a header that the file does not back,
and every fault becomes one :class:`~aurac.errors.CheckpointError`.
"""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from aurac.adapters.linalg import all_finite
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    """The JSON object in ``path``.

    Raises:
        CheckpointError: When it cannot be read, is too large, or is no JSON object.
    """
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
    """Check those of ``fields`` that ``record``, a JSON object, sets.

    Args:
        record: The object.
        fields: What each field should be, in words and as a check.
        where: The file, for messages.

    Raises:
        CheckpointError: For a value that its check does not accept.
    """
    for key, (expected, accepts) in fields.items():
        value = record.get(key)
        if value is not None and not accepts(value):
            raise CheckpointError(f"{where} gives {key} = {value!r}"[:300], expected=expected)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors`` file or a torch archive, on the CPU.

    Raises:
        CheckpointError: When the file is damaged, is neither format, or claims more than it holds.
    """
    if regular_file(path) == 0:
        raise CheckpointError(f"{path} is empty")
    if path.suffix != ".safetensors":
        return _read_torch(path)
    file = SafetensorsFile(path)
    return {key: file.read(key) for key in file.keys}


def check_factor(tensor: Tensor, key: str, where: object) -> Tensor:
    """``tensor`` itself when it can serve as a factor; on the meta device type and shape alone.

    Raises:
        CheckpointError: For a type other than a 16 to 64 bit float, an empty tensor, NaN or inf.
    """
    if tensor.dtype not in FLOATS.values():
        raise _wrong_type(tensor.dtype, key, where)
    if tensor.numel() == 0:
        raise CheckpointError(f"{key} in {where} is empty, shape {tuple(tensor.shape)}")
    if not tensor.is_meta and not all_finite(tensor):
        raise CheckpointError(f"{key} in {where} holds NaN or infinite values")
    return tensor


def _wrong_type(dtype: torch.dtype, key: str, where: object) -> CheckpointError:
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


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a one-line message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


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
        except Exception as error:
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
                raise _wrong_type(self.read(key).dtype, key, self.path)
            outline[key] = torch.empty(entry.get_shape(), dtype=dtype, device="meta")
        return outline

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU, in memory of its own.

        Raises:
            CheckpointError: When the file can no longer be read.
        """
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except Exception as error:
            raise CheckpointError(
                f"cannot read {self.path}: {reason(error)}", fix="copy or download the file again"
            ) from error
        return tensor


def _read_torch(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded as weights only: {reason(error)}",
            fix="nothing in it was executed; save it again as safetensors",
        ) from error
    return _only_tensors(loaded, path)


def _check_archive(path: Path) -> None:
    """Refuse a file that is no zip archive of uncompressed records that fit into it."""
    size = regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a torch archive: {reason(error)}",
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
    """``tensor``, refused when its shape claims more than its storage holds."""
    plain = (
        tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    )
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{key} in {path} claims a shape that the file does not hold")
    return tensor.detach()


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
