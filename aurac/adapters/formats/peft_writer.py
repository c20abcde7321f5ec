"""Writing plain PEFT checkpoints, atomically."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.peft_reader import WEIGHTS
from aurac.adapters.formats.peft_shapes import PREFIX, factor_keys, peft_shapes
from aurac.adapters.formats.sidecar import SIDECAR, to_json
from aurac.adapters.nesting import peft_alpha
from aurac.errors import CheckpointError, RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from aurac.adapters.adapter import Adapter, Factors


METADATA: Final = {"format": "pt"}


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
        from safetensors.torch import save_file

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


def peft_state(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors under PEFT's own keys and in PEFT's own shapes."""
    state: dict[str, Tensor] = {}
    for name, f in adapter.modules.items():
        state.update(zip(factor_keys(name, f), peft_shapes(f, f.A, f.B), strict=True))
    state.update({f"{PREFIX}{key}": tensor for key, tensor in adapter.extras.items()})
    return state


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
