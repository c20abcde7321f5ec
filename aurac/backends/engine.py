"""The engine: the base model in memory with the truncated adapter attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters import LiveAdapter, attach
from aurac.adapters.cut import Cut, Truncation
from aurac.backends.backend import Backend
from aurac.models.base import LoadedBase

if TYPE_CHECKING:
    from aurac.engine.lm import EngineLM

ENGINE_VERSION = 9  # raise when the engine changes in a way that can change a number


class EngineBackend(Backend):
    """A base in memory and one `EngineLM` for all cuts, of which the newest stays attached.

    Leaving it as a context restores the base.
    """

    def __init__(
        self,
        base: LoadedBase,
        load: Callable[[], LoadedBase] | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__("hf", {}, base, Path)
        self._load, self._limits = load, {"batch_size": batch_size, "max_length": max_length}
        self._tasks: set[str] = set()
        self._context = ExitStack()
        self._live: tuple[Truncation, LiveAdapter] | None = None
        self._cut: tuple[Cut | None] | None = None  # what answers, (None,): the base alone

    def __exit__(self, *_: object) -> None:
        self._detach()
        if "model" in vars(self):
            self.model.forget()

    def identity(self) -> dict[str, Any]:
        """Its version; the dtype is the base's."""
        return {"backend": f"aurac {ENGINE_VERSION}"}

    @cached_property
    def model(self) -> EngineLM:
        """The one `EngineLM`; the base is loaded the first time."""
        from aurac.engine.lm import EngineLM  # loads transformers and lm-eval's HFLM

        base = self._load() if self._load else self.base
        return EngineLM(base.model, base.tokenizer, **self._limits)

    def load(self) -> None:
        """The base's weights."""
        self.model  # noqa: B018 - made the first time

    def prepare(self, task: Any) -> None:
        """Tokenise its requests, and find what its prompts share."""
        if task.name not in self._tasks:
            self._tasks.add(task.name)
            self.model.prepare(task.instances(range(len(task))))

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[EngineLM]:
        """The base with this cut (None: the base alone) as an lm-eval model, until the next."""
        if (cut,) != self._cut:
            self._cut = None
            self.model.forget()
            if cut is None or self._live is None or self._live[0] != cut.truncation:
                self._detach()
            if cut:
                self._attached(cut).set_rank(cut.rank, cut.factor)
            self._cut = (cut,)
        self.model.progress = self.progress
        yield self.model

    def unfinished(self, _texts: Sequence[str], _limit: int) -> list[bool]:
        """Which of the n latest answers were cut off: the engine knows."""
        return list(self.model.unfinished)

    def _attached(self, cut: Cut) -> LiveAdapter:
        if self._live is None:
            live = self._context.enter_context(attach(self.model.model, self.prepared(cut)))
            self._live = cut.truncation, live
        return self._live[1]

    def _detach(self) -> None:
        self._context.close()
        self._live = self._cut = None
