"""Checkpoints within cells on a cluster: they outlive the worker that made them.

A keeper is an actor beside the process that hands out cells. Workers tell it what is done of their
cells; it tells whoever takes up a dead worker's cell; and the process that hands out cells puts
what came since the last look into its run folder, so that it outlives the cluster as well.
"""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aurac.runs.store import CellStore

logger = logging.getLogger(__name__)

_ANSWERS_IN = 30.0  # seconds; a keeper that is silent is done without


class Keeper:
    """What is done of cells, by cell and part: plain JSON values."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}
        self._news: set[tuple[str, str]] = set()

    def load(self, key: str) -> dict[str, Any]:
        """Part → content."""
        return self._kept.get(key, {})

    def save(self, key: str, part: str, content: dict[str, Any], *, new: bool = True) -> None:
        """Keep a part in the place of what was kept of it."""
        self._kept.setdefault(key, {})[part] = content
        if new:
            self._news.add((key, part))

    def drop(self, key: str) -> None:
        """The cell is settled."""
        self._kept.pop(key, None)
        self._news = {(k, part) for k, part in self._news if k != key}

    def news(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, part, content) of what was kept since this was last asked."""
        found = [(key, part, self._kept[key][part]) for key, part in sorted(self._news)]
        self._news.clear()
        return found


class WorkersCheckpoint:
    """A worker's side, for one cell: see `aurac.engine.checkpoint.Checkpoint`.

    A keeper that is gone or silent costs the checkpoint, never the cell.

    Args:
        ray: Ray.
        keeper: The actor's handle.
        key: The cell's.
        seconds: Shortest time between two checkpoints.
        clock: A monotonic clock.
    """

    def __init__(
        self,
        ray: Any,
        keeper: Any,
        key: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ray, self._keeper, self._key = ray, keeper, key
        self._seconds, self._clock, self._last = seconds, clock, clock()
        self._kept: dict[str, Any] = {}
        try:
            # A task that waits in its main thread gives its processor to another task meanwhile.
            with ThreadPoolExecutor(1) as thread:
                self._kept = thread.submit(self._load).result()
        except ray.exceptions.RayError as error:
            logger.warning("no checkpoint within a cell can be read (%s)", type(error).__name__)

    def _load(self) -> dict[str, Any]:
        asked = self._keeper.load.remote(self._key)
        kept: dict[str, Any] = self._ray.get(asked, timeout=_ANSWERS_IN)
        return kept

    def __bool__(self) -> bool:
        """Whether something was kept."""
        return bool(self._kept)

    def load(self, part: str) -> Mapping[str, Any] | None:
        """What was kept of a part."""
        kept: Mapping[str, Any] | None = self._kept.get(part)
        return kept

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self._clock() - self._last >= self._seconds

    def save(self, part: str, content: dict[str, Any]) -> None:
        """Send a part on its way."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._keeper.save.remote(self._key, part, content)
        self._last = self._clock()


class KeeperLink:
    """The side of the process that hands out cells.

    Args:
        ray: Ray, connected.
        store: The run's.
        seconds: Between two looks for news.
        where: Ray's scheduling strategy for the actor.
    """

    def __init__(self, ray: Any, store: CellStore, seconds: float, where: Any) -> None:
        self._ray, self._store, self.seconds = ray, store, seconds
        self._looked = time.monotonic()
        how = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": where}
        self.handle = ray.remote(**how)(Keeper).remote()
        self._lost = (ray.exceptions.RayError, ConnectionError)

    def hand_out(self, key: str) -> None:
        """Tell the keeper what the run folder has of a cell that is about to be computed."""
        with contextlib.suppress(*self._lost):
            told = [
                self.handle.save.remote(key, part, content, new=False)
                for part, content in self._store.partials(key)
            ]
            if told:  # the worker must not ask before it is there
                self._ray.get(told, timeout=_ANSWERS_IN)

    def settled(self, key: str) -> None:
        """Nothing is to be kept of this cell any more."""
        with contextlib.suppress(*self._lost):
            self.handle.drop.remote(key)

    def look(self, *, now: bool = False) -> None:
        """Put the keeper's news into the run folder, if it is time."""
        if not now and time.monotonic() - self._looked < self.seconds:
            return
        self._looked = time.monotonic()
        try:
            news = self._ray.get(self.handle.news.remote(), timeout=_ANSWERS_IN)
        except self._lost as error:
            logger.debug("the keeper of checkpoints is silent (%s)", error)
            return
        for key, part, content in news:
            if not self._store.has(key):  # a part may come in late
                self._store.save_partial(key, part, content)
