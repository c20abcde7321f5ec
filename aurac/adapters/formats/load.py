"""Loading an adapter from a folder, a file or a hub id, whatever its format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters.formats.hub import locate
from aurac.adapters.formats.peft import read_peft
from aurac.adapters.formats.peft_config import CONFIG, WEIGHTS
from aurac.adapters.formats.sidecar import LoadOverrides, apply_overrides
from aurac.adapters.formats.state_dict import ModelInMemory, read_state_dict
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from aurac.adapters.adapter import Adapter
    from aurac.adapters.formats.state_dict import BaseSource
    from aurac.adapters.nesting import Rule, Update

STATE_DICTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load_adapter(
    path: str | Path,
    *,
    method: str | None = None,
    scaling: Rule | None = None,
    alpha: float | None = None,
    nested_ranks: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    update: Update | None = None,
    base: str | None = None,
    enable_lora: Sequence[bool] | None = None,
    keys: Mapping[str, Any] | None = None,
    base_model: nn.Module | None = None,
    bases: Callable[[str], BaseSource] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
    lazy: bool = False,
) -> Adapter:
    """Read an adapter from a folder, a file or a hub id.

    Args:
        path: PEFT folder, research or loralib state dict, or ``owner/name[@revision][:subfolder]``.
        method: How it was trained, where the file does not say.
        scaling: Its scaling rule, where the file does not say.
        alpha: The α of that rule.
        nested_ranks: S, the nested ranks.
        weights: One weight per nested rank.
        update: DyLoRA's update.
        base: The name of its base model.
        enable_lora: For loralib's ``MergedLinear``, which of a layer's groups are on.
        keys: For a file with names of its own: ``{"A": pattern, "B": pattern[, "alpha": pattern]}``
            with ``{module}`` in each, or for each module its ``{"A": key, "B": key}``.
        base_model: The base itself (on the meta device will do), to settle an orientation that
            shapes alone leave open.
        bases: The same as a function of the base's name, called only for a state-dict file.
        revision: Which one of a hub id.
        subfolder: Which one, when a folder or a hub id holds several adapters.
        name: What to call it; the last part of the path by default.
        lazy: Read the numbers of a PEFT safetensors file only when they are asked for, module by
            module (``Adapter.walk``, ``Adapter.loaded``).

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    overrides = LoadOverrides(
        method=method,
        scaling=scaling,
        alpha=alpha,
        nested_ranks=None if nested_ranks is None else tuple(nested_ranks),
        weights=None if weights is None else tuple(weights),
        update=update,
        base=base,
        enable_lora=None if enable_lora is None else tuple(map(bool, enable_lora)),
        keys=keys,
    )
    located = locate(path, revision=revision, subfolder=subfolder)
    try:
        source = _adapter_path(located.path, located.subfolder)
        if source.is_dir():
            _check_peft(overrides, source)
            adapter = apply_overrides(read_peft(source, lazy=lazy), overrides)
        else:
            model = None if base_model is None else ModelInMemory(base_model)
            find_base = bases if model is None else lambda _: model
            adapter = read_state_dict(source, overrides, find_base)
            adapter = apply_overrides(adapter, replace(overrides, scaling=None, alpha=None))
    except OSError as error:
        raise CheckpointError(f"cannot read {located.path}: {error.strerror or error}") from error
    return adapter if name is None else replace(adapter, name=name)


def _check_peft(overrides: LoadOverrides, folder: Path) -> None:
    if overrides.enable_lora is not None or overrides.keys is not None:
        raise UsageError(
            f"--enable-lora or a key map for {folder}, a PEFT folder, which names its own tensors",
            expected="them for a single file",
        )


def _adapter_path(path: Path, subfolder: str | None) -> Path:
    """The PEFT folder or the state-dict file at or directly below ``path``."""
    if subfolder is not None:
        return _adapter_path(_subfolder(path, subfolder), None)
    if path.is_dir():
        return _in_folder(path)
    if path.name in (CONFIG, *WEIGHTS) and (path.parent / CONFIG).is_file():
        return path.parent
    if path.suffix.lower() in STATE_DICTS:
        return path
    raise CheckpointError(
        f"{path} is no checkpoint", expected=f"a PEFT folder or a file in {', '.join(STATE_DICTS)}"
    )


def _subfolder(path: Path, subfolder: str) -> Path:
    folder = path / subfolder
    if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not folder.is_dir():
        raise CheckpointError(f"{path} has no folder {subfolder}")
    return folder


def _in_folder(folder: Path) -> Path:
    if (folder / CONFIG).exists():
        return folder
    inner = sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
    if len(inner) == 1:
        return inner[0]
    if inner:
        raise CheckpointError(
            f"{folder} holds {len(inner)} adapters: {', '.join(p.name for p in inner)}",
            fix="name one of these folders",
        )
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".pt", ".pth", ".ckpt"))
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(
            f"{folder} holds {len(files)} checkpoints: {', '.join(p.name for p in files[:8])}",
            fix="name one of these files",
        )
    raise CheckpointError(f"{folder} holds no adapter", expected=f"{CONFIG} or one .pt file in it")
