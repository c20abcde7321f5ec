"""Checkpoints within a cell, in the store: what `aurac.engine.checkpoint` keeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aurac.runs.store import CellStore

SECONDS = 15.0


class CellCheckpoint:
    """Parts of one cell, kept in the store.

    Args:
        store: The run's.
        key: The cell's.
        seconds: Shortest time between two checkpoints.
        clock: A monotonic clock.
    """

    def __init__(
        self,
        store: CellStore,
        key: str,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._key, self._seconds, self._clock = store, key, seconds, clock
        self._last = clock()

    def load(self, part: str) -> Mapping[str, Any] | None:
        """What was kept of a part, if it is whole."""
        return self._store.load_partial(self._key, part)

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self._clock() - self._last >= self._seconds

    def save(self, part: str, content: dict[str, Any]) -> None:
        """Keep a part; where the folder takes nothing, the cell goes on without."""
        self._store.save_partial(self._key, part, content)
        self._last = self._clock()
