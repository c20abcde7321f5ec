"""A backend by the name that lm-eval gives the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aurac.backends.backend import Backend, Exports
from aurac.backends.engine import EngineBackend
from aurac.backends.lm_eval_models import HflmBackend, PeftBackend, VllmBackend
from aurac.backends.server import SERVER, ServerBackend
from aurac.models.base import LoadedBase


def open_backend(
    name: str,
    arguments: Mapping[str, Any],
    base: LoadedBase,
    load: Callable[[], LoadedBase],
    folder: Callable[[], Path],
    *,
    largest: int,
    batch_size: int | None = None,
    max_length: int | None = None,
) -> Backend:
    """The backend of a model; all but a server's ask nothing and load nothing before they answer.

    Args:
        name: `hf` (aurac's engine), `hflm` (lm-eval's own HFLM), `local-completions`, `vllm`, or
            another model of lm-eval that takes ``peft=``.
        arguments: lm-eval's, of that model.
        base: The base, or its outline.
        load: Gives the base with its weights.
        folder: Gives the folder in which cuts are written for those that read them.
        largest: The largest rank.
        batch_size: Most sequences at once.
        max_length: Longest input in tokens.

    Raises:
        UsageError: No server is named, its packages are missing, or the model takes no adapter.
        ServerError: The server does not answer.
    """
    limits = {"batch_size": batch_size, "max_length": max_length}
    if name == "hf":
        return EngineBackend(base, load, **limits)
    arguments = {**{k: v for k, v in limits.items() if v}, **arguments}
    if name == "hflm":
        return HflmBackend(arguments, base, load)
    if name == SERVER:
        return ServerBackend(arguments, base, Exports(folder))
    if name == "vllm":
        return VllmBackend(arguments, base, Exports(folder), largest)
    return PeftBackend(name, arguments, base, Exports(folder))
