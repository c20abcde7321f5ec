"""A base as a reader of checkpoints asks for it: by name, its shapes before its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aurac.errors import BaseModelError
from aurac.models.base import (
    PACKAGED,
    load_model,
    packaged_folder,
    quiet_transformers,
    resolve_base,
)

if TYPE_CHECKING:
    import torch


class KnownBase:
    """One base, looked at while a checkpoint is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def skeleton(self, *, needed: bool) -> torch.nn.Module | None:
        """The model's modules on the meta device.

        Args:
            needed: Fetch the base if it is not on this machine. Without, `None` is returned then.

        Raises:
            BaseModelError: It is needed, and cannot be found or built.
        """
        folder = _on_this_machine(self._name)
        if folder is None and needed and self._name:
            folder = resolve_base(self._name).path
        if folder is None:
            return None
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            with quiet_transformers(), torch.device("meta"):
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
                return model
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            if not needed:
                return None
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BaseModelError(
                f"the shapes of base {self._name!r} are needed and cannot be built ({lines[0]})",
                fix="give --base a folder that transformers can load",
            ) from error

    def whole(self) -> torch.nn.Module:
        """The model with its numbers, in the types that they are stored in; empty without a name.

        Raises:
            BaseModelError: It cannot be found or loaded.
        """
        import torch

        if not self._name:
            return torch.nn.Module()
        model: torch.nn.Module = load_model(resolve_base(self._name), "auto")
        return model


def _on_this_machine(name: str) -> Path | None:
    """The folder of a base that needs no fetching; `None` for any other."""
    if name in PACKAGED:
        return packaged_folder(name)
    if name and (Path(name).expanduser() / "config.json").is_file():
        return Path(name).expanduser()
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except ValueError:  # no repository can have that name
        return None
    return Path(found).parent if isinstance(found, str) else None
