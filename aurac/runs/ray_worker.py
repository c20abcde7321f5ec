"""Blocks in a worker of a cluster: a job, a cell's identity and places in, a block out.

A worker keeps the session of the job it served last, so that a base is loaded once, and the adapter
of the block before. It writes nothing: what it computed comes back as its return value.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import AuracError, BaseModelError
from aurac.files import sha256_json
from aurac.runs.device_limits import stop_if_device_is_lost
from aurac.runs.node_weights import find_adapter, find_base
from aurac.runs.runner import AdapterSwitch, RunContext, Runner, failure_content, reason_of
from aurac.runs.session import Session, open_session
from aurac.runs.settings import from_plain
from aurac.runs.store import CellStore

if TYPE_CHECKING:
    from aurac.runs.plan import PlannedCell
    from aurac.runs.schema import Block

logger = logging.getLogger(__name__)


class UnfitNodeError(AuracError):
    """A worker that would compute other cells than those that were asked of it."""


class _WorkerCache:
    """A session on this worker, with its base and the adapter in use."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.session = _session(job)
        self.cells = {cell.identity.key: cell for cell in self.session.cells()}
        store = CellStore(Path())  # nothing is read from it or written to it
        self._runner = Runner(self.session.base, store, self.session.options, RunContext())
        self._switch = AdapterSwitch(self._runner, contextlib.ExitStack())

    def compute(self, cell: PlannedCell, places: list[int]) -> Block | dict[str, Any]:
        self._runner.base()
        started = time.perf_counter()
        try:
            (block,) = self._runner.blocks(cell, places, self._switch)
        except BaseModelError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the cell has failed
            stop_if_device_is_lost(error, cell)
            seconds = time.perf_counter() - started
            return failure_content(cell, reason_of(error), type(error).__name__, seconds)
        return block


_CACHE: dict[str, _WorkerCache] = {}


def _session(job: dict[str, Any]) -> Session:
    """The job's session with this node's weights."""
    settings = from_plain(job["settings"])
    base = find_base(job["base"]["name"], job["base"]["sha256"])
    adapters = job["adapters"]
    given = [
        find_adapter(path, sha256, settings)
        for path, sha256 in zip(job["checkpoints"], adapters, strict=True)
    ]
    session = open_session(
        given, job["tasks"], replace(settings, model=replace(settings.model, base=base))
    )
    factors = {(sha, basis): by_rank for sha, basis, by_rank in job["factors"]}
    session.variants = [
        replace(v, fit_factors=factors[v.adapter.sha256, v.basis]) if v.rescale == "fit" else v
        for v in session.variants
    ]
    return session


def compute(
    job: dict[str, Any], identity: dict[str, Any], places: list[int]
) -> Block | dict[str, Any]:
    """Compute some documents of the cell of this identity.

    Args:
        job: What to compute with: see `aurac.runs.ray`.
        identity: The cell's.
        places: Of the documents, all in one block of the grid.

    Returns:
        The block, or the content of a record of failure.

    Raises:
        UnfitNodeError: This node would compute something else; the difference is named.
    """
    name = sha256_json(job)
    if name not in _CACHE:
        _CACHE.clear()
        _CACHE[name] = _WorkerCache(job)
    cache = _CACHE[name]
    cell = cache.cells.get(sha256_json(identity))
    if cell is None:
        raise _unfit(identity, list(cache.cells.values()))
    return cache.compute(cell, places)


def _unfit(identity: dict[str, Any], cells: list[PlannedCell]) -> UnfitNodeError:
    """The fields in which the nearest cell of this node differs from what was asked."""
    here = [cell.identity.to_dict() for cell in cells]
    nearest = min(here, key=lambda mine: sum(mine[k] != identity[k] for k in identity))
    unlike = [
        f"{k} {nearest[k]!r} for {identity[k]!r}" for k in identity if nearest[k] != identity[k]
    ]
    return UnfitNodeError(
        f"a worker would compute other cells ({'; '.join(unlike)})",
        expected="the same packages, documents and kind of device on every node",
    )
