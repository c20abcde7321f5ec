"""Who answers, by the name that lm-eval gives it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aurac.errors import UsageError
from aurac.runs.inputs import Inputs

SERVER = "local-completions"
_OPTIONS = ("batch_size", "max_length", "dtype", "device", "trust_remote_code")


def open_backend(inputs: Inputs, largest: int, folder: Callable[[], Path]) -> Any:
    """The backend of a run's settings; all but the engine load nothing before they are asked.

    Args:
        inputs: Of the run.
        largest: The largest rank.
        folder: Gives the folder in which cuts are written for those that read them.

    Raises:
        UsageError: lm-eval has no such model, or it takes no adapter.
        ServerError: The server does not answer.
    """
    from aurac.backends.engine import LocalBackend
    from aurac.backends.lm_eval_models import (
        Exports,
        HflmBackend,
        PeftBackend,
        VllmBackend,
        model_class,
    )
    from aurac.backends.server import ServerBackend

    settings, base = inputs.settings, inputs.base
    name, exports = settings.model, Exports(folder)
    if name == "hf":
        limits = {"batch_size": settings.batch_size, "max_length": settings.max_length}
        return LocalBackend(inputs.load(), **limits)
    options = {word: getattr(settings, word) for word in _OPTIONS if getattr(settings, word)}
    arguments = {**options, **settings.model_args}
    if name == "hflm":
        return HflmBackend(name, arguments, inputs.load)
    if name == SERVER:
        chat = settings.apply_chat_template
        return ServerBackend(name, arguments, base, exports, chat=chat)
    here = {"pretrained": str(base.path), "tokenizer": base.tokenizer.name_or_path or None}
    if name == "vllm":
        return VllmBackend(name, {**here, **arguments}, exports, largest)
    makers = [vars(each).get("__init__") for each in inspect.getmro(model_class(name))]
    if not any("peft" in inspect.signature(make).parameters for make in makers[:-1] if make):
        raise UsageError(
            f"lm-eval's model {name!r} takes no adapter: serve it and use --model {SERVER}, or "
            "choose hf, hflm, vllm or a model that takes peft="
        )
    return PeftBackend(name, {**here, **arguments}, exports)
