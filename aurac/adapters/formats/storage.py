"""Files of adapters: JSON and tensors to read, of which nothing is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor

from aurac.errors import CheckpointError, first_line
from aurac.files import read_json
from aurac.models.weights import all_finite

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
Record = TypeVar("Record")


def read_fields(path: Path) -> dict[str, object]:
    """The JSON object in ``path``."""
    return read_json(path, dict[str, object], CheckpointError)


def checked(record: Mapping[str, object], kind: type[Record], where: object) -> Record:
    """``record`` as ``kind``, whose defaults also stand for its nulls."""
    try:
        return msgspec.convert({k: v for k, v in record.items() if v is not None}, kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{where}: {error}") from error


def check_factor(tensor: Tensor, key: str, where: object) -> Tensor:
    """``tensor`` itself if it can serve as a factor: a 16 to 64 bit float, finite, not empty."""
    usable = tensor.is_floating_point() and tensor.dtype.itemsize >= 2 and tensor.numel()
    if not usable or not all_finite(tensor):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{key} in {where} ({dtype}, shape {tuple(tensor.shape)}) is empty, no float of 16 to "
            "64 bits, or holds NaN or infinite values"
        )
    return tensor


def both_factors(halves: Mapping[str, Tensor], module: str, where: object) -> tuple[Tensor, Tensor]:
    """A and B of a module, by these letters; a CheckpointError where one is not there."""
    if absent := {"A", "B"} - halves.keys():
        raise CheckpointError(f"{where} has no lora_{absent.pop()} for {module}")
    return halves["A"], halves["B"]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in a ``.safetensors`` or torch file, on the CPU; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text tells how to run what is in it
        raise CheckpointError(f"{path} is damaged, or holds more than tensors") from error
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {first_line(error)[:200]}") from error
    for wrapper in ("model_state_dict", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    content = loaded.items() if isinstance(loaded, Mapping) else ()
    return {str(key): t.detach() for key, t in content if isinstance(t, Tensor)}
