"""Blocks in a worker of a cluster: a job, a cell's identity and places in, a block out.

A worker keeps the base of the job it served last and the adapter of the block before, and writes
nothing. Weights are found by their content, since the path of one machine need not hold on another:
under the name of the request, then in the folders, two levels down, below each root in
`AURAC_WEIGHTS` (a list as in `PATH`) and below `weights/` in aurac's cache.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from aurac.adapters import members_of
from aurac.errors import AuracError, BaseModelError, CheckpointError
from aurac.models import cache_root
from aurac.models.base import resolve_base
from aurac.records.cell import Block, CellIdentity, Failure
from aurac.runs.evaluator import Evaluator, stop_if_device_is_lost
from aurac.runs.plan import PlannedCell
from aurac.runs.runner import failure_after
from aurac.runs.session import Session, load_adapters, open_session
from aurac.runs.settings import NamedCheckpoint, Settings

ROOTS = "AURAC_WEIGHTS"
T = TypeVar("T")


class UnfitNodeError(AuracError):
    """A worker that would compute other cells than those that were asked of it."""


@dataclass(frozen=True)
class ClusterJob:
    """What a worker of a Ray cluster must know: names, hashes and settings, no weights.

    Attributes:
        adapters: Hashes of the adapter at each checkpoint, or of the members of a family.
        names: Hash of an adapter or family → its name in the run.
        base: Name and hash.
        factors: (hash, basis) → rank → factor, of rescale `fit`.
    """

    checkpoints: Sequence[str]
    adapters: Sequence[list[str]]
    names: dict[str, str]
    base: tuple[str, str]
    tasks: Sequence[str]
    settings: Settings
    factors: dict[tuple[str, str], dict[int, float]]


_CACHE: dict[str, tuple[dict[str, PlannedCell], Evaluator]] = {}
"""Hash of a job → its cells, and its base with the adapter in use."""


def compute(job: ClusterJob, identity: CellIdentity, places: list[int]) -> Block | Failure:
    """The block of documents at some places of a cell's whole task, or the record of a failure.

    Raises:
        UnfitNodeError: This node would compute something else; the difference is named.
        AuracError: The base or an adapter is not on this node.
    """
    name = repr(job)
    if name not in _CACHE:
        _CACHE.clear()
        session = _session(job)
        cells = {cell.identity.key: cell for cell in session.cells()}
        _CACHE[name] = cells, Evaluator(session.base, session.options)
    cells, evaluator = _CACHE[name]
    cell = cells.get(identity.key)
    if cell is None:
        raise _unfit(identity, [cell.identity for cell in cells.values()])
    evaluator.base()
    started = time.perf_counter()
    try:
        (block,) = evaluator.blocks(cell, [places])
    except BaseModelError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the cell has failed
        stop_if_device_is_lost(error, cell)
        return failure_after(error, cell, started)
    return block


def _unfit(identity: CellIdentity, planned: Sequence[CellIdentity]) -> UnfitNodeError:
    """The fields in which the nearest cell of this node differs from the identity."""
    wanted, found = identity.to_dict(), [cell.to_dict() for cell in planned]
    different = [[k for k in wanted if cell.get(k) != wanted[k]] for cell in found]
    cell, names = min(zip(found, different, strict=True), key=lambda pair: len(pair[1]))
    nearest = [f"{name} {cell.get(name)!r} for {wanted[name]!r}" for name in names]
    return UnfitNodeError(
        f"a worker would compute other cells ({'; '.join(nearest)})",
        expected="the same packages, documents and kind of device on every node",
    )


def _session(job: ClusterJob) -> Session:
    """The job's session with this node's weights."""
    settings, base = job.settings, find_base(*job.base)
    checkpoints = [
        find_adapter(path, members, settings)
        for path, members in zip(job.checkpoints, job.adapters, strict=True)
    ]
    settings = replace(settings, model=replace(settings.model, base=base))
    session = open_session(checkpoints, job.tasks, settings, names=job.names)
    session.variants = [
        replace(v, fit_factors=job.factors[v.adapter.sha256, v.basis]) if v.rescale == "fit" else v
        for v in session.variants
    ]
    return session


def find_base(name: str, sha256: str) -> str:
    """The name or folder here of a base with those weights; a BaseModelError without any."""
    places = itertools.chain([name], _folders_with("config.json"))
    place = _find(places, sha256, lambda folder: resolve_base(folder).sha256)
    if place is None:
        raise _absent(BaseModelError, f"base {name}", sha256)
    return place


def find_adapter(checkpoint: str, members: Sequence[str], settings: Settings) -> str:
    """The checkpoint or folders here that hold these adapters; a CheckpointError without them."""

    def content(place: str) -> list[str]:
        (adapter,) = load_adapters([place], settings).values()
        return [member.sha256 for member in members_of(adapter)]

    place = _find([checkpoint], list(members), content)
    if place is not None:
        return place
    places = [_find(_folders_with("adapter_config.json"), [m], content) for m in members]
    for sha256, place in zip(members, places, strict=True):
        if place is None:
            raise _absent(CheckpointError, f"adapter {checkpoint}", sha256)
    name = NamedCheckpoint.of(checkpoint).name or Path(checkpoint).name
    return f"{name}={{{','.join(map(str, places))}}}" if len(places) > 1 else str(places[0])


def _find(places: Iterable[str], wanted: T, content: Callable[[str], T]) -> str | None:
    """The first place with that content."""
    for place in places:
        try:
            if content(place) == wanted:
                return place
        except AuracError:
            continue
    return None


def _absent(kind: type[AuracError], what: str, sha256: str) -> AuracError:
    return kind(
        f"{what} with content {sha256[:12]} is not on this node",
        expected=f"it under that name, or in a folder below a root in {ROOTS}",
        fix="bring it to every node",
    )


def _folders_with(name: str) -> Iterator[str]:
    """Folders below the roots that hold a file of this name."""
    roots = [Path(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
    for root in (*roots, cache_root() / "weights"):
        yield from sorted(
            str(path.parent) for path in (*root.glob(f"*/{name}"), *root.glob(f"*/*/{name}"))
        )
