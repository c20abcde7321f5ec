"""A backend by the name that lm-eval gives the model, and lm-eval's models of this process."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend
from aurac.backends.engine import EngineBackend
from aurac.backends.server import SERVER, ServerBackend
from aurac.curves.names import slot_rank
from aurac.errors import UsageError
from aurac.models.base import LoadedBase


def open_backend(
    name: str,
    arguments: dict[str, Any],
    base: LoadedBase,
    load: Callable[[], LoadedBase],
    folder: Callable[[], Path],
) -> Backend:
    """The backend of a model; all but a server's ask nothing and load nothing before they answer.

    Args:
        name: `hf` (aurac's engine), `hflm` (lm-eval's own HFLM), `local-completions`, `vllm`, or
            another model of lm-eval that takes ``peft=``.
        arguments: lm-eval's, of that model; the engine takes its `batch_size` and `max_length`.
        base: The base, or its outline.
        load: Gives the base with its weights.
        folder: Gives the folder in which cuts are written for those that read them.

    Raises:
        UsageError: No server is named, or the model takes no adapter.
        ServerError: The server does not answer.
    """
    if name == "hf":
        return EngineBackend(base, load, arguments.get("batch_size"), arguments.get("max_length"))
    if name == SERVER:
        return ServerBackend(name, arguments, base, folder)
    here = {"pretrained": str(base.path), "tokenizer": base.tokenizer.name_or_path or None}
    if name == "vllm":
        return VllmBackend(name, here | arguments, base, folder)
    here |= {"dtype": base.dtype, "device": base.device}
    return PeftBackend(name, here | arguments, base, folder)


class PeftBackend(Backend):
    """Any model of lm-eval that takes ``peft=``, made anew for each cut; `hflm` is its ``HFLM``."""

    _lm: Any = None
    _peft: Path | None = None

    def __init__(self, name: str, *given: Any) -> None:
        super().__init__(name, *given)
        self._made = model_class("hf" if name == "hflm" else name)

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        peft = self.exported(cut) if cut else None
        if self._lm is None or peft != self._peft:
            self._lm = None
            gc.collect()  # two of them may not fit
            given = {"peft": str(peft)} if peft else {}
            self._lm, self._peft = self._made(**self.arguments, **given), peft
        yield self._lm


class VllmBackend(Backend):
    """lm-eval's ``vllm``: one engine with ``enable_lora``, and a LoRA request for each cut."""

    checked = True

    def begin(self, cuts: Sequence[Cut], **_: Any) -> None:
        """Have a slot for the largest rank, unless the arguments have one."""
        largest = max((cut.rank for cut in cuts), default=1)
        self.arguments.setdefault("max_lora_rank", slot_rank(largest))

    @property
    def version(self) -> str:
        """Of vLLM, whatever the package that brings it is called."""
        for package in packages_distributions().get("vllm", ()):
            return f"vllm {version(package)}"
        raise UsageError("--model vllm needs vLLM in this environment: pip install vllm")

    @cached_property
    def _lm(self) -> Any:
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(enable_lora=True, **self.arguments)

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        self._lm.lora_request = None
        if cut:
            from vllm.lora.request import LoRARequest

            folder = self.exported(cut)
            number = 1 + [*self._exported.values()].index(folder)
            self._lm.lora_request = LoRARequest(folder.name, number, str(folder))
        yield self._lm


def model_class(name: str) -> Any:
    """lm-eval's class of that name; a UsageError where there is none or it takes no ``peft=``."""
    import lm_eval.models  # noqa: F401 - fills the registry
    from lm_eval.api.registry import get_model

    try:
        made = get_model(name)
    except (ValueError, ImportError) as error:
        raise UsageError(f"lm-eval's model {name!r} cannot be used here: {error}") from error
    makers = [vars(each).get("__init__") for each in inspect.getmro(made)]
    if not any("peft" in inspect.signature(make).parameters for make in makers[:-1] if make):
        reads = "hf, hflm, vllm, local-completions or one that takes peft="
        raise UsageError(f"lm-eval's model {name!r} takes no adapter: choose {reads}")
    return made
