"""One door for every checkpoint: find it, tell its format, read it, apply what the user says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.adapters.formats.given import given, override
from aurac.adapters.formats.locate import locate
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.peft_reader import WEIGHTS, read_peft
from aurac.adapters.formats.state_dicts import read_state_dict
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    base_model: nn.Module | None = None,
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
        base_model: The base itself (on the meta device will do), to settle an orientation that
            shapes alone leave open.
        subfolder: Which one, when a folder holds several adapters.
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
    )
    found = locate(path)
    try:
        place = _choose(found, subfolder)
        if place.is_dir():
            adapter = override(read_peft(place, lazy=lazy), said)
        else:
            adapter = read_state_dict(place, said, base_model)
    except OSError as error:
        raise CheckpointError(f"cannot read {found}: {error.strerror or error}") from error
    return adapter if name is None else replace(adapter, name=name)


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
