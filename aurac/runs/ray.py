"""Cells on a Ray cluster: each is a task; Ray places tasks, and does those of dead workers again.

A task carries an order (settings, names and hashes) and a cell's identity, never a model. What a
worker found comes back as the task's value, once, and this process alone writes it, under a lease:
the workers need no shared folder. Documents of `--data` lie at the same path on every node.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import AuracError, UsageError
from aurac.hashing import sha256_json
from aurac.runs.cell_content import failure_content
from aurac.runs.keeper import KeeperLink, WorkersCheckpoint
from aurac.runs.partial import SECONDS
from aurac.runs.settings import to_plain
from aurac.runs.store import cannot_write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.runs.plan import PlannedCell
    from aurac.runs.runner import Tools
    from aurac.runs.session import Session
    from aurac.runs.store import CellStore

logger = logging.getLogger(__name__)

RETRIES = 3  # workers that may die in one cell before it counts as failed
_ANSWERS_IN = 10.0  # seconds
_PATIENCE = 1.0  # seconds between looks at signals and at cells of other processes


class ClusterError(AuracError):
    """The cluster cannot be reached, was lost, or has no worker that can serve."""


class RayExecutor:
    """Runs cells as tasks of a Ray cluster.

    Args:
        address: Of the cluster; None starts one on this machine.
        workers: Most tasks at a time; None: as many as fit.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self._address, self._workers = address, workers

    def run(
        self, session: Session, store: CellStore, cells: Sequence[PlannedCell], tools: Tools
    ) -> None:
        """See `Executor`."""
        ray = _ray()
        gpus = 1 if session.outline.device.startswith("cuda") else 0
        with _cluster(ray, self._address, self._workers, tools):
            # max_calls 0: a worker with a GPU would otherwise end, and its base with it, each time.
            how = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 0}
            task = ray.remote(**how)(compute_cell)
            keeper = KeeperLink(ray, store, SECONDS, _beside_this_process(ray))
            flight = _Flight(ray, task, ray.put(_order(session)), store, tools, keeper)
            slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
            if gpus and not slots:
                logger.warning("the Ray cluster has no GPU now: cells wait until one joins")
            # One more than run at a time: a worker finds its next cell waiting.
            most = self._workers or slots + 1
            waiting = deque(cells)
            try:
                while waiting or flight.cells:
                    tools.interrupts.check()
                    tools.leases.step()
                    flight.fill(waiting, most)
                    flight.land()
                    keeper.look()
            except (ray.exceptions.RaySystemError, ConnectionError) as error:
                raise ClusterError(
                    f"the Ray cluster was lost ({_first_line(error)})",
                    fix="what is done is kept: give the same command again",
                ) from error
            finally:
                flight.cancel()
                keeper.look(now=True)


class _Flight:
    """Tasks that have been handed to Ray, each under a lease of this process."""

    def __init__(
        self,
        ray: Any,
        task: Any,
        order: Any,
        store: CellStore,
        tools: Tools,
        keeper: KeeperLink,
    ) -> None:
        self._ray, self._task, self._order = ray, task, order
        self._store, self._tools, self._keeper = store, tools, keeper
        self.cells: dict[Any, PlannedCell] = {}

    def fill(self, waiting: deque[PlannedCell], most: int) -> None:
        """Hand over cells that nobody has or holds; others go to the end of the line."""
        for _ in range(len(waiting)):
            if len(self.cells) >= most:
                return
            cell = waiting.popleft()
            key = cell.identity.key
            if self._settled(key):
                self._tools.on_documents(cell.task.n_requests)
                continue
            if not self._acquire(key):
                waiting.append(cell)
                continue
            if self._settled(key):
                self._tools.on_documents(cell.task.n_requests)
                self._tools.leases.release(key)
                continue
            self._tools.on_cell(cell)
            self._keeper.hand_out(key)
            given = self._order, cell.identity.to_dict(), self._keeper.handle, self._keeper.seconds
            self.cells[self._task.remote(*given)] = cell

    def _settled(self, key: str) -> bool:
        return self._store.has(key) or self._store.failure(key) is not None

    def _acquire(self, key: str) -> bool:
        try:
            return self._tools.leases.acquire(key)
        except OSError as error:
            raise cannot_write(self._store.run_folder, error) from error

    def land(self) -> None:
        """Take in what has come back within a second."""
        if not self.cells:
            time.sleep(_PATIENCE)
            return
        done, _ = self._ray.wait(list(self.cells), num_returns=1, timeout=_PATIENCE)
        for reference in done:
            cell = self.cells.pop(reference)
            try:
                self._take_in(cell, reference)
            finally:
                self._tools.leases.release(cell.identity.key)

    def _take_in(self, cell: PlannedCell, reference: Any) -> None:
        errors = self._ray.exceptions
        try:
            found = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise _as_aurac(error) from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            reason = f"{RETRIES + 1} workers died while they computed it ({_first_line(error)})"
            found = {"failure": failure_content(cell, reason, type(error).__name__, 0.0)}
        if self._tools.leases.lost(cell.identity.key):
            return
        key, label = cell.identity.key, cell.label
        self._keeper.settled(key)
        self._tools.on_documents(cell.task.n_requests)
        if found.get("failure"):
            self._store.fail(cell.identity, found["failure"])
            reason = found["failure"]["reason"]
            self._tools.log.event("failed", key=key, cell=label, reason=reason)
            return
        self._store.put(cell.identity, found["content"])
        self._tools.log.event(
            "cell",
            key=key,
            cell=label,
            task=cell.task.name,
            requests=cell.task.n_requests,
            seconds=found["content"]["seconds"],
            resumed=found["resumed"],
        )

    def cancel(self) -> None:
        """Give up what has not come back."""
        for reference, cell in self.cells.items():
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
            self._tools.leases.release(cell.identity.key)
        self.cells.clear()


def compute_cell(
    order: dict[str, Any], identity: dict[str, Any], keeper: Any, seconds: float
) -> dict[str, Any]:
    """The task: see `aurac.runs.ray_worker`, which a worker imports when it is first used."""
    from aurac.runs.ray_worker import compute

    return compute(
        order, identity, WorkersCheckpoint(_ray(), keeper, sha256_json(identity), seconds)
    )


def _order(session: Session) -> dict[str, Any]:
    """What a worker must know: names, hashes and settings, no weights."""
    chosen = session.chosen
    return {
        "checkpoints": [_absolute(given) for given in session.checkpoints],
        "adapters": [adapter.sha256 for adapter in session.adapters.values()],
        "base": {"name": _absolute(session.outline.name), "sha256": session.outline.sha256},
        "tasks": list(session.tasks),
        "settings": {
            **to_plain(chosen),
            "dtype": session.outline.dtype,
            "device": session.outline.device.split(":")[0],
        },
        "factors": [
            [v.adapter.sha256, v.basis, v.fit_factors] for v in session.variants if v.fit_factors
        ],
    }


def _beside_this_process(ray: Any) -> Any:
    """Placed here if that can be: a node that dies takes with it what is placed there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _absolute(given: str) -> str:
    """A path as other processes find it; a hub id as it is."""
    path = Path(given).expanduser()
    return str(path.resolve()) if path.exists() else given


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor ray needs Ray, which is not installed",
            fix="pip install 'aurac[ray]' here and on every node",
        ) from error
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None, workers: int | None, tools: Tools) -> Iterator[None]:
    """A connection to the cluster, or a cluster of this machine for the length of the block."""
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached "
            f"({_first_line(error)})",
            fix="check `ray status`, and --address",
        ) from error
    tools.interrupts.renew()  # Ray sets a handler of its own
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """See whether anybody answers: Ray itself would try for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _ANSWERS_IN).close()


def _as_aurac(error: Any) -> AuracError:
    """An error of a worker's set-up: no cell of the run can be computed there."""
    cause = getattr(error, "cause", None)
    said = str(cause) if isinstance(cause, AuracError) else _first_line(cause or error)
    return ClusterError(f"a Ray worker cannot serve: {said}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
