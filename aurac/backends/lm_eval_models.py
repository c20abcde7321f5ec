"""lm-eval's own models of this process: ``HFLM``, vLLM, and those that take ``peft=``."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend, Exports
from aurac.backends.engine import EngineBackend
from aurac.curves.display import slot_rank
from aurac.errors import UsageError
from aurac.models.base import LoadedBase


class HflmBackend(Backend):
    """lm-eval's own ``HFLM`` on the model with the adapter attached: slow, and the reference."""

    def __init__(
        self, arguments: Mapping[str, Any], base: LoadedBase, load: Callable[[], LoadedBase]
    ) -> None:
        super().__init__("hflm", arguments, base)
        self._local = EngineBackend(base, load)

    def __exit__(self, *_: object) -> None:
        self._local.__exit__()

    def identity(self) -> dict[str, Any]:
        """As of any backend; the dtype is the run's."""
        return {name: value for name, value in super().identity().items() if name != "dtype"}

    def load(self) -> None:
        """The base's weights."""
        self._local.load()

    @cached_property
    def _lm(self) -> Any:
        from lm_eval.models.huggingface import HFLM

        inner = self._local.model
        given = {k: v for k, v in self.arguments.items() if k != "dtype"}
        return HFLM(pretrained=inner.model, tokenizer=inner.tokenizer, **given)

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        with self._local.lm(cut):
            yield self._lm


class PeftBackend(Backend):
    """Any model of lm-eval that takes ``peft=``, made anew for each cut."""

    def __init__(
        self, name: str, arguments: Mapping[str, Any], base: LoadedBase, exports: Exports
    ) -> None:
        here = {"pretrained": str(base.path), "tokenizer": base.tokenizer.name_or_path or None}
        super().__init__(name, {**here, **arguments}, base)
        self._exports = exports
        self._made = model_class(name)
        self._lm: Any = None
        self._peft: Path | None = None

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        peft = None if cut is None else self._exports.of(cut)
        if self._lm is None or peft != self._peft:
            self._lm = None
            gc.collect()  # two of them may not fit
            given = {"peft": str(peft)} if peft else {}
            self._lm, self._peft = self._made(**self.arguments, **given), peft
        yield self._lm


class VllmBackend(Backend):
    """lm-eval's ``vllm``: one engine with ``enable_lora``, and a LoRA request for each cut."""

    checked = True

    def __init__(
        self, arguments: Mapping[str, Any], base: LoadedBase, exports: Exports, largest: int
    ) -> None:
        here = {"pretrained": str(base.path), "tokenizer": base.tokenizer.name_or_path or None}
        here["max_lora_rank"] = slot_rank(largest)
        super().__init__("vllm", {**here, **arguments}, base)
        self._exports = exports
        self._numbers: dict[Path, int] = {}

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
        if cut is not None:
            from vllm.lora.request import LoRARequest

            folder = self._exports.of(cut)
            number = self._numbers.setdefault(folder, len(self._numbers) + 1)
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
