"""Evaluates the documents of cells on one loaded base, a block at a time."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch
from msgspec import UNSET
from typing_extensions import Self

from aurac.adapters import attach, prepare
from aurac.engine import EngineOptions
from aurac.engine.counts import watched
from aurac.engine.running import cached_tokens, pass_tokens
from aurac.errors import AuracError
from aurac.models.base import LoadedBase
from aurac.models.device import no_memory
from aurac.records.cell import Block, Budgets
from aurac.runs.log import RunLog
from aurac.runs.plan import PlannedCell, Variant
from aurac.tasks.task import Evaluation

logger = logging.getLogger(__name__)

_LEAST_TOKENS, _LEAST_CACHE, _MOST_SEQUENCES = 64, 512, 256


class LostDeviceError(AuracError):
    """An accelerator that answers nothing more in this process; other cells would fail with it."""

    exit_code = 3


class Evaluator:
    """A base with the adapter of the newest cell attached; a context that restores the base.

    Args:
        base: Gives the base model in memory; called when the first cell is computed.
        options: Budgets of the engine; halved where memory does not suffice.
        log: Where events go.
        before_pass: Called before each forward pass.
    """

    def __init__(
        self,
        base: Callable[[], LoadedBase],
        options: EngineOptions,
        *,
        log: RunLog | None = None,
        before_pass: Callable[[], None] = lambda: None,
    ) -> None:
        self._base, self._options = base, options
        self._log, self._before_pass = log or RunLog(None), before_pass
        self._notes: list[str] = []
        self._prepared: dict[tuple[str, str], Any] = {}
        self._attached = contextlib.ExitStack()
        self._key: tuple[str, str] | None = None  # of what is attached: variant and adapter
        self._live: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.close()
        self._key = self._live = None

    def base(self) -> LoadedBase:
        """The base in memory; a BaseModelError where it cannot be loaded."""
        return self._base()

    def blocks(
        self,
        cell: PlannedCell,
        places: Sequence[Sequence[int]],
        on_requests: Callable[[int], None] = lambda _count: None,
    ) -> Iterator[Block]:
        """Evaluate some places of a cell's documents, with half the batch where memory is short.

        `on_requests` is called with the number of requests answered since the last call.
        """
        waiting = list(places)
        evaluation = None
        while waiting:
            evaluation = evaluation or self._evaluation(cell)
            counted = Counter(on_requests)
            try:
                block = self._block(cell, evaluation, waiting[0], counted)
            except Exception as error:
                on_requests(-counted.count)
                full = isinstance(error, (MemoryError, RuntimeError)) and no_memory(error)
                smaller = halved(self._options, self.base().model) if full else None
                if smaller is None:
                    raise
            else:
                waiting.pop(0)
                yield block
                continue
            # Here, beyond the handler, nothing refers to the tensors of the failed pass any more.
            self._take_smaller(cell, smaller)
            evaluation = None

    def _evaluation(self, cell: PlannedCell) -> Evaluation:
        base = self.base()
        self._set(cell.variant, cell.rank, base)
        return cell.task.evaluation(base.model, base.tokenizer, self._options)

    def _set(self, variant: Variant | None, rank: int, base: LoadedBase) -> None:
        """Attach the truncation if it is not attached already (None detaches all); set its rank."""
        if variant is None:
            self.__exit__()
            return
        member = variant.member(rank)
        key = variant.label, member.sha256
        if key != self._key:
            self.__exit__()
            if key not in self._prepared:  # a variant comes back at every level
                rescale, factors = variant.rescale_at(rank), variant.fit_factors
                self._prepared[key] = prepare(member, variant.basis, rescale, fit_factors=factors)
            live = attach(base.model, self._prepared[key])
            self._key, self._live = key, self._attached.enter_context(live)
        self._live.set_rank(rank)

    def _block(
        self,
        cell: PlannedCell,
        evaluation: Evaluation,
        places: Sequence[int],
        on_requests: Callable[[int], None],
    ) -> Block:
        began, options = time.perf_counter(), self._options
        with watched(self.base().model, self._before_pass) as watch:
            outcome = evaluation.block(places, on_requests)
        watch.check()
        seconds = time.perf_counter() - began
        return Block(
            documents=[cell.documents[place] for place in places],
            metrics={key: [float(x) for x in column] for key, column in outcome.metrics.items()},
            responses=outcome.responses,
            samples={key: rows.tolist() for key, rows in outcome.samples.items()} or UNSET,
            logged=outcome.logged,
            engine=outcome.engine,
            budgets=msgspec.convert(options, Budgets, from_attributes=True),
            seconds=round(seconds, 3),
            notes=list(self._notes),
        )

    def _take_smaller(self, cell: PlannedCell, smaller: EngineOptions) -> None:
        note = (
            f"out of memory: from here on at most {smaller.batch_tokens} tokens and "
            f"{smaller.batch_size} sequences in a pass"
        )
        self._options, self._notes = smaller, [note]
        logger.warning("%s: %s", cell.label, note)
        self._log.event("out of memory", cell=cell.label, batch_tokens=smaller.batch_tokens)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Counter:
    """Requests counted in one attempt."""

    def __init__(self, on_requests: Callable[[int], None]) -> None:
        self._on_requests, self.count = on_requests, 0

    def __call__(self, count: int) -> None:
        """Count so many more."""
        self.count += count
        self._on_requests(count)


def halved(options: EngineOptions, model: Any) -> EngineOptions | None:
    """Half of every budget; None where they are as small as they may be."""
    tokens = options.batch_tokens or pass_tokens(model)
    sequences = options.batch_size or _MOST_SEQUENCES
    cached = options.cache_tokens or cached_tokens(model)
    if tokens <= _LEAST_TOKENS and sequences == 1 and cached <= _LEAST_CACHE:
        return None
    return replace(
        options,
        batch_tokens=max(_LEAST_TOKENS, tokens // 2),
        batch_size=max(1, sequences // 2),
        cache_tokens=max(_LEAST_CACHE, cached // 2),
    )


def stop_if_device_is_lost(error: BaseException, cell: PlannedCell) -> None:
    """Raise LostDeviceError if the accelerator itself failed: later cells would fail, too."""
    if "CUDA error" in str(error) and not no_memory(error):
        raise LostDeviceError(
            f"the accelerator is lost since {cell.label} ({error})",
            fix="give the same command again to go on without that cell",
        ) from error
