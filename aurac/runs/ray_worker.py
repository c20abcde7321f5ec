"""One cell in a worker of a cluster: an order and a cell's identity in, its content out.

A worker keeps the session of the order it served last, so that a base is loaded once, and the
adapter of the cell before. It writes nothing: what it found comes back as its return value.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import AuracError
from aurac.hashing import sha256_json
from aurac.runs.node_weights import find_adapter, find_base
from aurac.runs.runner import Runner, Switch, Tools
from aurac.runs.session import Session, open_session
from aurac.runs.settings import from_plain

if TYPE_CHECKING:
    from aurac.runs.keeper import WorkersCheckpoint
    from aurac.runs.plan import PlannedCell
    from aurac.runs.provenance import CellIdentity

logger = logging.getLogger(__name__)


class UnfitNodeError(AuracError):
    """A worker that would compute other cells than those that were asked of it."""


@dataclass
class Outcome:
    """What became of one cell: `put` or `fail` was called, with its content.

    Attributes:
        run_folder: None that is of use here.
        content, failure: What was put.
        kept: The cell's checkpoint; None where nothing keeps any.
    """

    run_folder: Path = field(default_factory=Path)
    content: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    kept: WorkersCheckpoint | None = None

    def keys(self) -> set[str]:
        """Nothing is known here."""
        return set()

    def failed_keys(self) -> set[str]:
        """Nothing is known here."""
        return set()

    def has(self, key: str) -> bool:  # noqa: ARG002
        """Nothing is known here."""
        return False

    def checkpoint(self, key: str) -> WorkersCheckpoint | None:  # noqa: ARG002
        """Where the cell's checkpoints go: a worker keeps nothing on its disk."""
        return self.kept

    def has_partial(self, key: str) -> bool:  # noqa: ARG002
        """Whether something of the cell was kept."""
        return bool(self.kept)

    def put(self, identity: CellIdentity, content: dict[str, Any]) -> Path:
        """The cell was computed."""
        self.content = content
        return Path(identity.key)

    def fail(self, identity: CellIdentity, content: dict[str, Any]) -> None:  # noqa: ARG002
        """The cell has failed."""
        self.failure = content


class _Bench:
    """A session on this worker, with its base and the adapter in use."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.session = _session(order)
        self.cells = {cell.identity.key: cell for cell in self.session.cells()}
        self._runner = Runner(self.session.base, Outcome(), self.session.options, Tools())
        self._switch = Switch(self._runner, contextlib.ExitStack())

    def compute(self, cell: PlannedCell, kept: WorkersCheckpoint | None) -> Outcome:
        outcome = self._runner.store = Outcome(kept=kept)
        self._runner.compute(cell, self._switch)
        return outcome


_BENCH: dict[str, _Bench] = {}


def _session(order: dict[str, Any]) -> Session:
    """The order's session with this node's weights."""
    chosen = from_plain(order["settings"])
    base = find_base(order["base"]["name"], order["base"]["sha256"])
    adapters = order["adapters"]
    given = [
        find_adapter(path, sha256, chosen)
        for path, sha256 in zip(order["checkpoints"], adapters, strict=True)
    ]
    session = open_session(given, order["tasks"], replace(chosen, base=base))
    factors = {(sha, basis): by_rank for sha, basis, by_rank in order["factors"]}
    session.variants = [
        replace(v, fit_factors=factors[v.adapter.sha256, v.basis]) if v.rescale == "fit" else v
        for v in session.variants
    ]
    return session


def compute(
    order: dict[str, Any], identity: dict[str, Any], kept: WorkersCheckpoint | None = None
) -> dict[str, Any]:
    """Compute the cell of this identity.

    Args:
        order: What to compute with: see `aurac.runs.ray`.
        identity: The cell's.
        kept: Its checkpoint.

    Returns:
        `content` or `failure`, as the store keeps them, and whether the cell was `resumed` from a
        checkpoint.

    Raises:
        UnfitNodeError: This node would compute something else; the difference is named.
    """
    name = sha256_json(order)
    if name not in _BENCH:
        _BENCH.clear()
        _BENCH[name] = _Bench(order)
    bench = _BENCH[name]
    cell = bench.cells.get(sha256_json(identity))
    if cell is None:
        raise _unfit(identity, list(bench.cells.values()))
    resumed = bool(kept)
    outcome = bench.compute(cell, kept)
    return {"content": outcome.content, "failure": outcome.failure, "resumed": resumed}


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
