"""Writing plain PEFT folders: complete or not at all, tensor by tensor where memory is short."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from safetensors.torch import save_file

from aurac.adapters.formats.peft_config import CONFIG, WEIGHTS
from aurac.adapters.formats.peft_tensors import peft_state
from aurac.adapters.formats.sidecar import SIDECAR, to_json
from aurac.adapters.nesting import peft_alpha
from aurac.errors import CheckpointError, RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from aurac.adapters.adapter import Adapter, Factors

METADATA: Final = {"format": "pt"}
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


def save_adapter(adapter: Adapter, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``adapter`` as a plain PEFT folder with its side-car ``aurac.json``.

    The folder appears complete or not at all: it is written beside its place, synced and renamed.

    Args:
        adapter: What to write; the tensors keep their dtype.
        folder: Where to.
        force: Replace a folder that holds an adapter. Any other folder that is not empty is never
            replaced.

    Raises:
        RunFolderError: When something is already there, or the place cannot be written to.
        CheckpointError: When the adapter holds something that JSON cannot say.
    """
    target = Path(folder)
    check_free(target, force=force)
    adapter = adapter.loaded()
    records = dump_records(adapter)
    with fresh_folder(target) as into:
        save_file(_separate(peft_state(adapter)), into / WEIGHTS[0], metadata=METADATA)
        write_records(into, records)
    return target


def dump_records(adapter: Adapter) -> dict[str, str]:
    """The texts beside the weights, by file name.

    Raises:
        CheckpointError: When the adapter holds something that JSON cannot say.
    """
    return {CONFIG: _dump(peft_config(adapter)), SIDECAR: _dump(to_json(adapter))}


def write_records(into: Path, records: Mapping[str, str]) -> None:
    """Write what :func:`dump_records` gave."""
    for name, text in records.items():
        (into / name).write_text(text, encoding="utf-8")


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside ``target`` to fill; then it is synced and moved to ``target``.

    When the block fails nothing is left of it, and ``target`` is as it was.

    Raises:
        RunFolderError: When the file system refuses.
    """
    target = Path.cwd() / target
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        _sync(fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        _sync_folder(target.parent)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise RunFolderError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """The ``adapter_config.json`` with which plain PEFT computes the adapter's own scale.

    Ranks and alphas go into the uniform fields; modules that differ from the most common value go
    into the patterns. Rule none is written as ``lora_alpha = α·R``.
    """
    ranks = {name: f.rank * f.rank_multiple for name, f in adapter.modules.items()}
    alphas = {
        name: peft_alpha(f.rule, f.alpha, f.rank, f.rank_multiple)
        for name, f in adapter.modules.items()
    }
    rank, rank_pattern = _common(ranks)
    alpha, alpha_pattern = _common(alphas)
    kept = {k: v for k, v in adapter.peft_config.items() if v not in (None, False, [], {})}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "revision": None,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "bias": "none",
        "modules_to_save": None,
        "target_modules": _targets(adapter),
        **kept,
        "base_model_name_or_path": adapter.base,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "use_rslora": _use_rslora(adapter.modules.values()),
        "init_lora_weights": True,
        "rank_pattern": rank_pattern,
        "alpha_pattern": {name: _whole(a) for name, a in alpha_pattern.items()},
    }


def _use_rslora(modules: Iterable[Factors]) -> bool:
    rules = {f.rule == "sqrt" for f in modules}
    if len(rules) > 1:
        raise CheckpointError("an adapter that mixes α/√r with another rule cannot be plain PEFT")
    return rules.pop()


def _common(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most common value, and the modules that have another one as anchored PEFT patterns."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {re.escape(n): v for n, v in values.items() if v != common}


def _targets(adapter: Adapter) -> list[str]:
    """The module names themselves: exact for every base, if long."""
    return sorted(name for name, f in adapter.modules.items() if f.kind != "experts")


def _whole(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def _dump(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the adapter's record cannot be written as JSON: {error}") from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for key, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        pointer = plain.untyped_storage().data_ptr()
        separate[key] = plain.clone() if pointer in seen else plain
        seen.add(pointer)
    return separate


def check_free(target: Path, *, force: bool) -> None:
    """Refuse a place that holds something, unless it is an adapter that ``force`` may replace.

    Raises:
        RunFolderError: When the place is taken.
    """
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not force:
        raise RunFolderError(
            f"{target} is already there", fix="choose another folder or give --force"
        )
    if target.is_symlink() or not (target / CONFIG).is_file():
        raise RunFolderError(
            f"{target} holds something that is no adapter, so it is not replaced even with --force",
            fix="choose another folder",
        )


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
