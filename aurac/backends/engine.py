"""Who answers for a cut: the base model in memory with the truncated adapter attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from typing_extensions import Self

from aurac.adapters import LiveAdapter, attach, prepare
from aurac.adapters.cut import Cut, Truncation
from aurac.adapters.truncate import Prepared
from aurac.engine.lm import EngineLM
from aurac.models.base import LoadedBase


class LocalBackend:
    """A base in memory and one `EngineLM` for all cuts, of which the newest stays attached.

    Leaving it as a context restores the base.

    Attributes:
        model: The `EngineLM`, to tokenise requests before the first cut and to follow progress.
    """

    def __init__(
        self, base: LoadedBase, *, batch_size: int | None = None, max_length: int | None = None
    ) -> None:
        limits = {"batch_size": batch_size, "max_length": max_length}
        self.model = EngineLM(base.model, base.tokenizer, **limits)
        self._prepared: dict[Truncation, tuple[Prepared, dict[int, float]]] = {}
        self._attached = ExitStack()
        self._live: tuple[Truncation, LiveAdapter] | None = None
        self._cut: tuple[Any, ...] | None = None  # what is attached; () for the base alone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._detach()
        self.model.forget()

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[EngineLM]:
        """The base with this cut (None: the base alone) as an lm-eval model, until the next."""
        key = () if cut is None else (*cut.truncation, cut.rank, cut.factor)
        if key != self._cut:
            self._cut = None
            self.model.forget()
            if cut is None:
                self._detach()
            else:
                self._set(cut)
            self._cut = key
        yield self.model

    def _detach(self) -> None:
        self._attached.close()
        self._live = self._cut = None

    def _set(self, cut: Cut) -> None:
        if cut.truncation not in self._prepared:  # it comes back for other ranks and tasks
            factors = {cut.rank: cut.factor or 1.0} if cut.rescale == "fit" else {}
            made = prepare(cut.adapter, cut.basis, cut.rescale, fit_factors=factors or None)
            self._prepared[cut.truncation] = made, factors
        prepared, factors = self._prepared[cut.truncation]
        if cut.factor is not None:
            factors[cut.rank] = cut.factor  # read at each change of the rank
        if self._live is None or self._live[0] != cut.truncation:
            self._detach()
            live = self._attached.enter_context(attach(self.model.model, prepared))
            self._live = cut.truncation, live
        self._live[1].set_rank(cut.rank)
