"""PEFT folders whose weights were removed: types and shapes of the tensors, and the hash, remain.

That is enough to plan an evaluation and to find its stored cells, but not to compute one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import torch

from aurac.adapters.formats.peft_config import WEIGHTS
from aurac.adapters.formats.tensors import SafetensorsFile
from aurac.adapters.formats.untrusted import FLOATS, read_json, reason
from aurac.errors import CheckpointError
from aurac.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from aurac.adapters.adapter import Adapter

OUTLINE: Final = "adapter_outline.json"


@dataclass(frozen=True)
class RemovedValues:
    """In the place of numbers that are no longer there."""

    folder: Path  # where they were
    sha256: str  # the hash that the adapter had

    def factors(self, module: str) -> NoReturn:
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
    """Replace the weights of a PEFT folder, unless they are gone, by the outline of its adapter."""
    weights = folder / WEIGHTS[0]
    if not weights.exists():
        return
    shapes: dict[str, list[str]] = {}
    names = {dtype: name for name, dtype in FLOATS.items()}
    for key, tensor in sorted(SafetensorsFile(weights).outline().items()):
        shapes.setdefault(" ".join(map(str, (names[tensor.dtype], *tensor.shape))), []).append(key)
    write_json(folder / OUTLINE, {"schema": 1, "sha256": adapter.sha256, "tensors": shapes})
    weights.unlink()


def read_outline(folder: Path) -> tuple[dict[str, Tensor], RemovedValues]:
    """The tensors of a folder without weights, on the meta device."""
    record = read_json(folder / OUTLINE)
    tensors: dict[str, Tensor] = {}
    try:
        for described, keys in record["tensors"].items():
            dtype, *shape = described.split()
            for key in keys:
                tensors[key] = torch.empty(*map(int, shape), dtype=FLOATS[dtype], device="meta")
        return dict(sorted(tensors.items())), RemovedValues(folder, str(record["sha256"]))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / OUTLINE} is damaged ({reason(error)})") from error
