"""One door for every checkpoint: find it, tell its format, read it, apply what the user says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters.formats.base_source import BaseSource, HeldBase
from aurac.adapters.formats.given import Given, given, override
from aurac.adapters.formats.locate import locate
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.peft_reader import WEIGHTS, read_peft
from aurac.adapters.formats.state_dicts import read_state_dict
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from aurac.adapters.adapter import Adapter
    from aurac.adapters.nesting import Method, Rule, Update

STATE_DICTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load_adapter(
    path: str | Path,
    *,
    method: Method | None = None,
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
        bases: The same, from the base's name, asked only when the file is no PEFT folder.
        revision: Which one of a hub id.
        subfolder: Which one, when a folder or a hub id holds several adapters.
        name: What to call it; the last part of the path by default.
        lazy: Read the numbers of a PEFT safetensors file only when they are asked for, module by
            module (``Adapter.walk``, ``Adapter.loaded``).

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    said = given(
        method=method,
        scaling=scaling,
        alpha=alpha,
        nested_ranks=nested_ranks,
        weights=weights,
        update=update,
        base=base,
        enable_lora=enable_lora,
        keys=keys,
    )
    held = None if base_model is None else HeldBase(base_model)
    found = locate(path, revision=revision, subfolder=subfolder)
    try:
        place = _choose(found.path, found.subfolder)
        if place.is_dir():
            _check_peft(said, place)
            adapter = override(read_peft(place, lazy=lazy), said)
        else:
            ask = bases if held is None else (lambda _: held)
            adapter = read_state_dict(place, said, ask)
    except OSError as error:
        raise CheckpointError(f"cannot read {found.path}: {error.strerror or error}") from error
    return adapter if name is None else replace(adapter, name=name)


def _check_peft(said: Given, folder: Path) -> None:
    if said.enable_lora is not None or said.keys is not None:
        raise UsageError(
            f"--enable-lora or a key map for {folder}, a PEFT folder, which names its own tensors",
            expected="them for a single file",
        )


def _choose(found: Path, subfolder: str | None) -> Path:
    """The PEFT folder or the state-dict file that ``found`` stands for."""
    if subfolder is not None:
        return _choose(_inside(found, subfolder), None)
    if found.is_dir():
        return _in_folder(found)
    if found.name in (CONFIG, *WEIGHTS) and (found.parent / CONFIG).is_file():
        return found.parent
    if found.suffix.lower() in STATE_DICTS:
        return found
    raise CheckpointError(
        f"{found} is no checkpoint", expected=f"a PEFT folder or a file in {', '.join(STATE_DICTS)}"
    )


def _inside(found: Path, subfolder: str) -> Path:
    place = found / subfolder
    if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not place.is_dir():
        raise CheckpointError(f"{found} has no folder {subfolder}")
    return place


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
