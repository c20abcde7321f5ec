"""A backend by the name that lm-eval gives the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aurac.backends.backend import Backend, Exports
from aurac.backends.engine import EngineBackend
from aurac.backends.lm_eval_models import HflmBackend, PeftBackend, VllmBackend, model_class
from aurac.backends.server import SERVER, ServerBackend
from aurac.errors import UsageError
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
        name: lm-eval's name of the model; `hf` is aurac's engine, `hflm` lm-eval's own HFLM.
        arguments: lm-eval's, of that model.
        base: The base, or its outline.
        load: Gives the base with its weights.
        folder: Gives the folder in which cuts are written for those that read them.
        largest: The largest rank.
        batch_size: Most sequences at once.
        max_length: Longest input in tokens.

    Raises:
        UsageError: lm-eval has no such model, or it takes no adapter.
        ServerError: The server does not answer.
    """
    if name == "hf":
        return EngineBackend(base, load, batch_size=batch_size, max_length=max_length)
    limits = {"batch_size": batch_size, "max_length": max_length}
    arguments = {**{k: v for k, v in limits.items() if v}, **arguments}
    exports = Exports(folder)
    if name == "hflm":
        return HflmBackend(arguments, base, load)
    if name == SERVER:
        return ServerBackend(arguments, base, exports)
    here = {"pretrained": str(base.path), "tokenizer": base.tokenizer.name_or_path or None}
    if name == "vllm":
        return VllmBackend({**here, **arguments}, base, exports, largest)
    makers = [vars(each).get("__init__") for each in inspect.getmro(model_class(name))]
    if not any("peft" in inspect.signature(make).parameters for make in makers[:-1] if make):
        raise UsageError(
            f"lm-eval's model {name!r} takes no adapter: serve it and use --model {SERVER}, or "
            "choose hf, hflm, vllm or a model that takes peft="
        )
    return PeftBackend(name, {**here, **arguments}, base, exports)
