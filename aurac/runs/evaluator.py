"""Evaluates the documents of cells on one loaded base, a block at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import UNSET
from typing_extensions import Self

from aurac.engine import EngineOptions
from aurac.errors import AuracError
from aurac.models.base import LoadedBase
from aurac.models.device import no_memory, unwrapped
from aurac.records.cell import Block
from aurac.runs.plan import PlannedCell
from aurac.tasks.task import BuiltTask


class LostDeviceError(AuracError):
    """An accelerator that answers nothing more in this process; other cells would fail with it."""

    exit_code = 3


class Evaluator:
    """A base with the adapter of the newest cell attached; a context that restores the base.

    Args:
        base: Gives the base model in memory; called when the first cell is computed.
        options: Batch size and length limit of the engine.
        before_pass: Called before each forward pass.
    """

    def __init__(
        self,
        base: Callable[[], LoadedBase],
        options: EngineOptions,
        *,
        before_pass: Callable[[], None] = lambda: None,
    ) -> None:
        self._base, self._options = base, options
        self._before_pass = before_pass
        self._backend: Any = None
        self._tokenised: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._backend is not None:
            self._backend.__exit__(*error)

    def base(self) -> LoadedBase:
        """The base in memory; a BaseModelError where it cannot be loaded."""
        return self._base()

    def blocks(
        self,
        cell: PlannedCell,
        places: Sequence[Sequence[int]],
        on_requests: Callable[[int], None] = lambda _count: None,
    ) -> Iterator[Block]:
        """Evaluate some places of a cell's documents.

        `on_requests` is called with the number of requests answered since the last call.
        """
        backend = self._backend_for(cell.task)
        counted = Counter(on_requests)
        hook = unwrapped(self.base().model).register_forward_pre_hook(self._pass)
        backend.model.progress = counted
        try:
            with backend.lm(_cut(cell)) as lm:
                for part in places:
                    counted.count = 0
                    yield self._block(cell, cell.task.evaluation(lm), part)
        except Exception:
            on_requests(-counted.count)
            raise
        finally:
            hook.remove()

    def _pass(self, *_: object) -> None:
        self._before_pass()

    def _backend_for(self, task: BuiltTask) -> Any:
        from aurac.engine.backend import LocalBackend

        base = self.base()
        if self._backend is None:
            self._backend = LocalBackend(base, self._options)
        if id(task) not in self._tokenised:
            self._tokenised.add(id(task))
            self._backend.model.prepare(task.instances)
        return self._backend

    def _block(self, cell: PlannedCell, evaluation: Any, places: Sequence[int]) -> Block:
        began = time.perf_counter()
        outcome = evaluation.block(places)
        seconds = time.perf_counter() - began
        return Block(
            documents=[cell.documents[place] for place in places],
            metrics={key: [float(x) for x in column] for key, column in outcome.metrics.items()},
            responses=outcome.responses,
            samples={key: rows.tolist() for key, rows in outcome.samples.items()} or UNSET,
            logged=outcome.logged,
            seconds=round(seconds, 3),
        )


def _cut(cell: PlannedCell) -> Any:
    from aurac.engine.backend import Cut

    variant, rank = cell.variant, cell.rank
    if variant is None:
        return None
    factor = (variant.fit_factors or {}).get(rank)
    return Cut(variant.member(rank), rank, variant.basis, variant.rescale_at(rank), factor)


class Counter:
    """Requests counted in one attempt."""

    def __init__(self, on_requests: Callable[[int], None]) -> None:
        self._on_requests, self.count = on_requests, 0

    def __call__(self, count: int) -> None:
        """Count so many more."""
        self.count += count
        self._on_requests(count)


def stop_if_device_is_lost(error: BaseException, cell: PlannedCell) -> None:
    """Raise LostDeviceError if the accelerator itself failed: later cells would fail, too."""
    if "CUDA error" in str(error) and not no_memory(error):
        raise LostDeviceError(
            f"the accelerator is lost since {cell.label} ({error})",
            fix="give the same command again to go on without that cell",
        ) from error
