"""A device that has too little memory for a pass, or that answers nothing more."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aurac.errors import AuracError
from aurac.models.device import no_memory

if TYPE_CHECKING:
    from aurac.engine import EngineOptions
    from aurac.runs.plan import PlannedCell

_LEAST_TOKENS, _LEAST_CACHE, _MOST_SEQUENCES = 64, 512, 256


class LostDeviceError(AuracError):
    """An accelerator that answers nothing more in this process; other cells would fail with it."""

    exit_code = 3


def halved(options: EngineOptions, model: Any) -> EngineOptions | None:
    """Half of every budget; None where they are as small as they may be."""
    from aurac.engine.running import cached_tokens, pass_tokens

    tokens = options.batch_tokens or pass_tokens(model)
    sequences = options.batch_size or _MOST_SEQUENCES
    held = options.cache_tokens or cached_tokens(model)
    if tokens <= _LEAST_TOKENS and sequences == 1 and held <= _LEAST_CACHE:
        return None
    return replace(
        options,
        batch_tokens=max(_LEAST_TOKENS, tokens // 2),
        batch_size=max(1, sequences // 2),
        cache_tokens=max(_LEAST_CACHE, held // 2),
    )


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stop_if_device_is_lost(error: BaseException, cell: PlannedCell) -> None:
    """After an error of the accelerator itself every later cell of this process would fail."""
    if "CUDA error" in str(error) and not no_memory(error):
        raise LostDeviceError(
            f"the accelerator is lost since {cell.label} ({error})",
            fix="give the same command again to go on without that cell",
        ) from error
