"""Who else may answer for a cut: lm-eval's models of this process, one adapter after another.

A backend is an object with a context manager ``lm(cut)`` that gives an lm-eval ``LM``. All but
`aurac.backends.engine.LocalBackend` read a cut as what it is, a plain PEFT folder.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from typing_extensions import Self

from aurac.adapters import prepare, save_adapter
from aurac.adapters.cut import Cut, Truncation
from aurac.adapters.truncate import Prepared
from aurac.backends.engine import LocalBackend
from aurac.backends.keys import hide, holds_key
from aurac.curves.display import slot_rank
from aurac.errors import UsageError
from aurac.models.base import LoadedBase

_NO_IDENTITY = {  # where the answers come from and how fast, not which they are
    "base_url", "ca_cert_path", "verify_certificate", "num_concurrent", "max_retries", "timeout",
    "batch_size", "max_batch_size", "device", "model", "pretrained", "dtype", "tokenizer",
    "gpu_memory_utilization", "max_num_seqs", "max_loras", "max_cpu_loras", "max_lora_rank",
}  # fmt: skip


class Exports:
    """Cuts as plain PEFT folders, each written once under a name made of its content."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._prepared: dict[tuple[Truncation, float | None], Prepared] = {}
        self._written: dict[tuple[Any, ...], Path] = {}

    def of(self, cut: Cut) -> Path:
        """The absolute folder of a cut; its name is unique to the weights and their scale."""
        what = (*cut.truncation, cut.rank, cut.factor)
        if what not in self._written:
            key = cut.truncation, cut.factor
            if key not in self._prepared:
                factors = {cut.rank: cut.factor} if cut.factor is not None else None
                made = prepare(cut.adapter, cut.basis, cut.rescale, fit_factors=factors)
                self._prepared[key] = made
            exported = self._prepared[key].at(cut.rank)
            folder = self._folder() / f"aurac-r{cut.rank}-{exported.sha256[:16]}"
            if not folder.exists():
                save_adapter(exported, folder)
            self._written[what] = folder.resolve()
        return self._written[what]


class Backend:
    """What a run asks of a backend beside ``lm(cut)``."""

    checked = False  # whether its answers are held against the engine's before the first cell
    device_kind: str | None = None  # None: that of the base
    scores: Any = True  # whether it gives log-likelihoods

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self.arguments = name, dict(arguments)
        hide(arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def version(self) -> str:
        """Of what computes."""
        return f"lm-eval {version('lm_eval')}"

    def identity(self) -> dict[str, Any]:
        """What decides its answers beside the base and the prompts."""
        told = {
            name: value
            for name, value in self.arguments.items()
            if name not in _NO_IDENTITY and not holds_key(name)
        }
        dtype = str(self.arguments.get("dtype") or "auto")
        return {
            "backend": f"{self.name}, {self.version}",
            "dtype": dtype,
            "model_args": told or None,
        }

    def checking(self, cut: Cut | None) -> AbstractContextManager[Any]:
        """``lm(cut)`` as the check asks it."""
        return self.lm(cut)

    def lm(self, cut: Cut | None) -> AbstractContextManager[Any]:
        """The lm-eval model that answers for this cut (None: the base), until the next."""
        raise NotImplementedError

    def begin(self, cuts: Sequence[Cut], *, scores: bool) -> None:
        """Before the first cell: raise what would fail every cell.

        Args:
            cuts: All that will be asked for.
            scores: Whether log-likelihoods will be.
        """


class HflmBackend(Backend):
    """lm-eval's own ``HFLM`` on the model with the adapter attached: slow, and the reference."""

    def __init__(
        self, name: str, arguments: Mapping[str, Any], load: Callable[[], LoadedBase]
    ) -> None:
        super().__init__(name, arguments)
        self._load = load

    def identity(self) -> dict[str, Any]:
        """As of any backend; the dtype is the run's."""
        return {name: value for name, value in super().identity().items() if name != "dtype"}

    @cached_property
    def _local(self) -> LocalBackend:
        return LocalBackend(self._load())

    @cached_property
    def _lm(self) -> Any:
        from lm_eval.models.huggingface import HFLM

        inner = self._local.model
        given = {k: v for k, v in self.arguments.items() if k != "dtype"}
        return HFLM(pretrained=inner.model, tokenizer=inner.tokenizer, **given)

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[Any]:
        """The base with this cut attached (None: the base alone)."""
        with self._local.lm(cut):
            yield self._lm

    def __exit__(self, *_: object) -> None:
        if "_local" in vars(self):
            self._local.__exit__()


class PeftBackend(Backend):
    """Any model of lm-eval that takes ``peft=``, made anew for each cut."""

    def __init__(self, name: str, arguments: Mapping[str, Any], exports: Exports) -> None:
        super().__init__(name, arguments)
        self._exports = exports
        self._lm: Any = None
        self._peft: tuple[str, ...] | None = None

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[Any]:
        """The model with this cut (None: the base alone)."""
        peft = () if cut is None else (str(self._exports.of(cut)),)
        if peft != self._peft:
            self._lm = self._peft = None
            gc.collect()  # two of them may not fit
            self._lm = model_class(self.name)(
                **self.arguments, **({"peft": peft[0]} if peft else {})
            )
            self._peft = peft
        yield self._lm


class VllmBackend(Backend):
    """lm-eval's ``vllm``: one engine with ``enable_lora``, and a LoRA request for each cut."""

    checked = True

    def __init__(
        self, name: str, arguments: Mapping[str, Any], exports: Exports, largest: int
    ) -> None:
        super().__init__(name, {"max_lora_rank": slot_rank(largest), **arguments})
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
        return model_class(self.name)(enable_lora=True, **self.arguments)

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[Any]:
        """The engine with this cut (None: the base alone) for its next requests."""
        self._lm.lora_request = None
        if cut is not None:
            from vllm.lora.request import LoRARequest

            folder = self._exports.of(cut)
            number = self._numbers.setdefault(folder, len(self._numbers) + 1)
            self._lm.lora_request = LoRARequest(folder.name, number, str(folder))
        yield self._lm

    @contextmanager
    def checking(self, cut: Cut | None) -> Iterator[Any]:
        """``lm(cut)``, one prompt at a time."""
        with self.lm(cut) as lm, one_at_a_time(lm, "batch_size"):
            yield lm


@contextmanager
def one_at_a_time(lm: Any, setting: str) -> Iterator[Any]:
    """An lm-eval model that asks for one thing at once; `setting` is its attribute for how many.

    vLLM 0.32 on CPUs ends where the prompts of several requests with LoRA are scored together.
    """
    several = getattr(lm, setting)
    setattr(lm, setting, 1)
    try:
        yield lm
    finally:
        setattr(lm, setting, several)


def model_class(name: str) -> Any:
    """lm-eval's class of that name; a UsageError where there is none or a package is missing."""
    import lm_eval.models  # noqa: F401 - fills the registry
    from lm_eval.api.registry import get_model

    try:
        return get_model(name)
    except ValueError as error:
        raise UsageError(f"lm-eval has no model {name!r}") from error
    except ImportError as error:
        raise UsageError(f"lm-eval's model {name!r} cannot be used here: {error}") from error
