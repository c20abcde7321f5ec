"""Files of adapters: JSON and tensors that nobody vouches for, and safetensors files to write.

Nothing that is read is executed (``weights_only``), no allocation follows a header that the file
does not back, and every fault becomes one :class:`~aurac.errors.CheckpointError`.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
)

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aurac.adapters.adapter import Adapter, Factors, all_finite
from aurac.errors import CheckpointError, first_line
from aurac.files import FETCH, POINTER, is_pointer, write_json

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
OUTLINE: Final = "adapter_outline.json"
# The types that factors may have, by their names in safetensors.
FLOATS: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_TYPE_NAMES: Final = {dtype: name for name, dtype in FLOATS.items()}
_AGAIN: Final = "copy or download the file again"
_JSON_LIMIT: Final = 16 * 2**20  # an adapter_config.json is a few kB
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "an object",
    "|": "or",
}
Record = TypeVar("Record", bound=msgspec.Struct)


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in ``path``, which may not be larger than 16 MB."""
    if regular_file(path) > _JSON_LIMIT:
        raise CheckpointError(f"{path} is larger than {_JSON_LIMIT // 2**20} MB")
    try:
        value = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
        )
    except (OSError, ValueError, RecursionError) as error:
        given = f"{path} is not readable JSON: {reason(error)}"
        raise CheckpointError(given, fix=_AGAIN) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} occurs twice")
        unique[key] = value
    return unique


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def checked(record: Mapping[str, object], kind: type[Record], where: object) -> Record:
    """``record`` as ``kind``, whose defaults also stand for its nulls."""
    try:
        return msgspec.convert({k: v for k, v in record.items() if v is not None}, kind)
    except msgspec.ValidationError as error:
        wanted, _, place = str(error).partition(" - at ")
        key = re.sub(r"\W*(\w*).*", r"\1", place)
        hint = next((f.type for f in msgspec.structs.fields(kind) if f.name == key), None)
        expected = re.sub(r"`| \| null", "", wanted).removeprefix("Expected ").split(", got")[0]
        expected = " ".join(_WORDS.get(word, word) for word in expected.split())
        if wanted.startswith("Invalid"):
            expected = " or ".join(map(str, _words_of(hint)))
        if not key:  # of the record as a whole
            raise CheckpointError(f"{where}: {wanted}") from error
        given = f"{where} gives {key} = {record.get(key)!r}"[:300]
        raise CheckpointError(given, expected=expected) from error


def _words_of(hint: Any) -> list[Any]:
    """The values that a type allows by a `Literal` in it."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in _words_of(part)]


def check_factor(tensor: Tensor, key: str, where: object) -> Tensor:
    """``tensor`` itself if it can serve as a factor: a 16 to 64 bit float, finite, not empty.

    On the meta device type and shape alone are checked.
    """
    if tensor.dtype not in FLOATS.values():
        raise _wrong_type(tensor.dtype, key, where)
    if tensor.numel() == 0:
        raise CheckpointError(f"{key} in {where} is empty, shape {tuple(tensor.shape)}")
    if not tensor.is_meta and not all_finite(tensor):
        fix = "train it again with a lower learning rate, or take an earlier checkpoint"
        raise CheckpointError(f"{key} in {where} holds NaN or infinite values", fix=fix)
    return tensor


def _wrong_type(dtype: torch.dtype, key: str, where: object) -> CheckpointError:
    return CheckpointError(
        f"{key} in {where} is of type {str(dtype).removeprefix('torch.')}",
        expected="float32, bfloat16, float16 or float64",
    )


def regular_file(path: Path) -> int:
    """The size of ``path`` in bytes; refused unless it is a regular file with its content."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        pointer = is_pointer(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    if pointer:
        raise CheckpointError(f"{path} is {POINTER}", fix=FETCH)
    return info.st_size


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a one-line message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)[:200]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors`` file or a torch archive, on the CPU."""
    if regular_file(path) == 0:
        raise CheckpointError(f"{path} is empty")
    if path.suffix != ".safetensors":
        return _read_torch(path)
    file = SafetensorsFile(path)
    return {key: file.read(key) for key in file.keys}


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


class SafetensorsFile:
    """A file whose header the safetensors library has checked against its size."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its header; no tensor is read."""
        regular_file(path)
        self.path = path
        try:
            # Not mapped: pages of a mapped file count as memory, and one that shrinks kills.
            self._file = safe_open(path, framework="pt", backend="pread")
            self.keys: list[str] = list(self._file.keys())
        except Exception as error:
            given = f"{path} is not a readable safetensors file: {reason(error)}"
            raise CheckpointError(given, fix=_AGAIN) from error

    def outline(self) -> dict[str, Tensor]:
        """Each tensor by name, on the meta device."""
        outline: dict[str, Tensor] = {}
        for key in self.keys:
            entry = self._file.get_slice(key)
            dtype = FLOATS.get(entry.get_dtype())
            if dtype is None:
                raise _wrong_type(self.read(key).dtype, key, self.path)
            outline[key] = torch.empty(entry.get_shape(), dtype=dtype, device="meta")
        return outline

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU, in memory of its own."""
        try:
            return self._file.get_tensor(key)
        except Exception as error:
            given = f"cannot read {self.path}: {reason(error)}"
            raise CheckpointError(given, fix=_AGAIN) from error


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; an OSError where the disk takes no more."""
    plain, seen = {}, set[int]()
    for key, tensor in state.items():
        whole = tensor.detach().cpu().contiguous()
        start = whole.untyped_storage().data_ptr()
        plain[key] = whole.clone() if start in seen else whole  # the library refuses shared memory
        seen.add(start)
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(reason(error)) from error


@dataclass(frozen=True)
class RemovedValues:
    """In the place of numbers that are no longer there."""

    folder: Path  # where they were
    sha256: str  # the hash that the adapter had

    def factors(self, module: str, outline: Factors) -> NoReturn:  # noqa: ARG002
        """Refused, see `refuse`."""
        self.refuse(f"read {module}")

    def beside_factors(self, key: str) -> NoReturn:
        """Refused, see `refuse`."""
        self.refuse(f"read {key}")

    def refuse(self, purpose: str) -> NoReturn:
        """Say that the weights are needed: always a CheckpointError."""
        raise CheckpointError(
            f"the weights of {self.folder} were removed, and are needed to {purpose}",
            expected=f"{WEIGHTS[0]} in it",
            fix="restore that file; or remove each such folder and run the study again, which "
            "trains these adapters again",
        )


def remove_weights(folder: Path, adapter: Adapter) -> None:
    """Replace the weights of a PEFT folder, unless they are gone, by the outline of its adapter.

    Types and shapes of the tensors, and the hash, remain: enough to plan an evaluation and to find
    its stored cells, but not to compute one.
    """
    weights = folder / WEIGHTS[0]
    if not weights.exists():
        return
    shapes: dict[str, list[str]] = {}
    for key, tensor in sorted(SafetensorsFile(weights).outline().items()):
        shapes.setdefault(
            " ".join(map(str, (_TYPE_NAMES[tensor.dtype], *tensor.shape))), []
        ).append(key)
    write_json(folder / OUTLINE, {"schema": 1, "sha256": adapter.sha256, "tensors": shapes})
    weights.unlink()


class _Outline(msgspec.Struct):
    sha256: str
    tensors: dict[str, list[str]]  # type and shape to the names of the tensors


def read_outline(folder: Path) -> tuple[dict[str, Tensor], RemovedValues]:
    """The tensors of a folder without weights, on the meta device."""
    outline = checked(read_json(folder / OUTLINE), _Outline, folder / OUTLINE)
    tensors: dict[str, Tensor] = {}
    try:
        for described, keys in outline.tensors.items():
            dtype, *shape = described.split()
            for key in keys:
                tensors[key] = torch.empty(*map(int, shape), dtype=FLOATS[dtype], device="meta")
        return dict(sorted(tensors.items())), RemovedValues(folder, outline.sha256)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder / OUTLINE} is damaged ({reason(error)})") from error
