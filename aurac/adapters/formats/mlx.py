"""Adapters of MLX, converted to plain factors.

The layout is that of mlx-lm 0.32 (``tuner/lora.py``; before 0.20 a config held ``alpha`` too):
``adapters.safetensors`` beside its own config. A module computes ``x W + scale · (x @ lora_a) @
lora_b`` with lora_a (in, R) and lora_b (R, out), whatever the rank: the rule ``none``. DoRA's
magnitudes are called ``m``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.peft import DORA_NOTE, with_magnitudes
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.state_dict import pair_factors
from aurac.adapters.formats.storage import WEIGHTS, check_factor, checked, read_fields, read_tensors
from aurac.adapters.methods import Nesting
from aurac.errors import CheckpointError

MLX_WEIGHTS: Final = "adapters.safetensors"
FILES: tuple[str, ...] = (CONFIG, MLX_WEIGHTS)
_NAMES: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ab])")


class _Lora(msgspec.Struct):
    rank: int
    scale: float
    alpha: float | None = None


class _Config(msgspec.Struct):
    lora_parameters: _Lora
    fine_tune_type: Literal["lora", "dora"] = "lora"
    model: str | None = None


def recognises(folder: Path) -> bool:
    """Whether a folder has mlx-lm's weights and none of PEFT's."""
    return (folder / MLX_WEIGHTS).exists() and not any((folder / w).exists() for w in WEIGHTS)


def read(folder: Path, _base: str | None, _scale: object) -> Adapter:
    """The adapter in a folder, whose config names its base and scale."""
    where, weights = folder / CONFIG, folder / MLX_WEIGHTS
    config = checked(read_fields(where), _Config, where)
    lora = config.lora_parameters
    scale = lora.scale if lora.alpha is None else lora.scale * (lora.alpha / lora.rank)
    pairs, others = pair_factors(read_tensors(weights), _NAMES, weights)
    modules = {
        n: Factors(A.mT.contiguous(), B.mT.contiguous(), float(scale), "none")
        for n, (A, B) in pairs.items()
    }
    if dora := config.fine_tune_type == "dora":
        keys = [key for key in others if key.endswith(".m")]
        norms = {k.removesuffix(".m"): check_factor(others.pop(k), k, weights) for k in keys}
        modules = with_magnitudes(modules, norms, weights)
    if others:
        raise CheckpointError(f"{weights} has a tensor {min(others)!r} beside its factors")
    if any(name.rpartition(".")[2].startswith("embed") for name in modules):
        raise CheckpointError(f"{weights} adapts embeddings, which are not read from MLX")
    adapter = Adapter(
        name=folder.name,
        modules=modules,
        base=config.model,
        peft_config={"task_type": "CAUSAL_LM"},
        source=folder,
        notes=(DORA_NOTE,) if dora else (),
        format="mlx",
    )
    return replace(adapter, nesting=Nesting("lora", (adapter.rank,)))
