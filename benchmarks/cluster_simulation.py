"""A run of 100,000 cells on 1,000 GPUs, simulated: aurac's own plan, cells that only take time.

    python benchmarks/cluster_simulation.py --seed 1 [--gpus 1000] [--out docs/planning.md]

The plan (`aurac.runs.plan.plan`), the shares of job arrays (`shard_of`) and the size of a
cell's file are aurac's; durations, failures and loads are assumptions that are printed with the
result. Each worker takes the next cell when it is free, as the executors do. A worker that fails
loses what it did since the last checkpoint within the cell, comes back after a while, and loads its
base again. What all this asks of the shared folder is in `shared_folder.py`.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from shared_folder import Walks, cell_bytes, store_load

from aurac.runs.plan import Variant, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.runs.plan import PlannedCell

HOUR = 3600.0


@dataclass(frozen=True)
class Kind:
    """A kind of task: how many there are, their documents, and the seconds that a cell takes."""

    name: str
    tasks: int
    documents: int
    seconds: float
    spread: float = 0.3  # standard deviation of the log


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Attributes:
        gpus: Workers, one for each GPU.
        load: Seconds until a worker has its base in memory, read by itself alone.
        base_bytes: What a worker reads for that.
        bandwidth: Bytes a second that the file system gives to all together.
        readers: Workers that share one read (a cache on each node).
        attach: Seconds to attach an adapter that the worker did not have.
        mtbf: Hours between failures of one worker; infinite for none.
        restart: Seconds until a worker that failed is back, before it loads its base.
        checkpoint: Seconds of work within a cell that a failure loses at most.
        price: Of an hour of one GPU.
    """

    gpus: int = 1000
    load: float = 30.0
    base_bytes: float = 14e9
    bandwidth: float = 10e9
    readers: int = 8
    attach: float = 1.0
    mtbf: float = math.inf
    restart: float = 120.0
    checkpoint: float = 60.0
    price: float = 2.0

    @property
    def first_load(self) -> float:
        """Seconds of a load while all workers load at once."""
        reads = math.ceil(self.gpus / self.readers)
        return max(self.load, reads * self.base_bytes / self.bandwidth)


@dataclass
class Outcome:
    """What came out; times in seconds, `work` and what follows summed over workers."""

    cells: int = 0
    makespan: float = 0.0
    ideal: float = 0.0
    work: float = 0.0
    loading: float = 0.0
    attaching: float = 0.0
    lost: float = 0.0
    waiting: float = 0.0
    failures: int = 0
    ends: list[float] = field(default_factory=list)

    def shares(self, gpus: int) -> dict[str, float]:
        """Where the GPUs' time went, as shares of makespan × GPUs."""
        whole = self.makespan * gpus
        parts = {
            "work": self.work,
            "loading": self.loading,
            "attaching": self.attaching,
            "lost": self.lost,
        }
        shares = {name: value / whole for name, value in parts.items()}
        return {**shares, "idle at the end": 1.0 - sum(shares.values())}


def planned(variants: int, ranks: Sequence[int], kinds: Sequence[Kind]) -> list[PlannedCell]:
    """The cells of a run in aurac's order, with stand-ins for adapters and tasks."""
    tasks: list[Any] = [
        SimpleNamespace(
            name=f"{kind.name}-{i}",
            version="1",
            documents_sha256=f"{kind.name}-{i}",
            prompts_sha256="",
            effort=kind.seconds,
            kind=kind,
        )
        for kind in kinds
        for i in range(kind.tasks)
    ]
    several = [
        Variant(
            name=f"adapter-{i}",
            adapter=SimpleNamespace(sha256=f"{i:064x}"),  # type: ignore[arg-type]
            basis="prefix",
            rescale="rule",
            role="default",
            ranks=tuple(ranks),
        )
        for i in range(variants)
    ]
    base: Any = SimpleNamespace(sha256="b" * 64, dtype="bfloat16", device="cuda")
    return plan(several, tasks, base, batching="", lm_eval="")


def drawn_seconds(cells: Sequence[PlannedCell], rng: np.random.Generator) -> list[float]:
    """How long each cell takes: log-normal around its kind's mean."""
    seconds = []
    for cell in cells:
        kind = cell.task.kind  # type: ignore[attr-defined]
        noise = kind.spread * rng.standard_normal() - kind.spread**2 / 2
        seconds.append(kind.seconds * math.exp(noise))
    return seconds


class Simulation:
    """Workers that take cells from queues; the earliest free one goes first.

    Args:
        seconds: Duration of each cell.
        adapters: What has to be attached for each cell.
        cluster: The assumptions.
        rng: Of the failures.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        adapters: Sequence[object],
        cluster: Cluster,
        rng: np.random.Generator,
    ) -> None:
        self.seconds, self.adapters, self.cluster, self.rng = seconds, adapters, cluster, rng

    def run(self, queues: Sequence[deque[int]]) -> Outcome:
        """Work the queues off: one that all workers share, or one for each worker."""
        found = Outcome(cells=len(self.seconds), work=float(sum(self.seconds)))
        cluster = self.cluster
        bound = max(found.work / cluster.gpus, max(self.seconds, default=0.0))
        found.ideal = bound
        attached: list[object] = [None] * cluster.gpus
        left = list(self.seconds)
        free = [(cluster.first_load, worker) for worker in range(cluster.gpus)]
        heapq.heapify(free)
        found.loading = cluster.first_load * cluster.gpus
        fails_at = [self._next_failure(0.0) for _ in range(cluster.gpus)]
        while free:
            now, worker = heapq.heappop(free)
            queue = queues[worker % len(queues)]
            if not queue:
                continue
            cell = queue.popleft()
            took = cluster.attach if self.adapters[cell] != attached[worker] else 0.0
            ends = now + took + left[cell]
            if fails_at[worker] < ends:
                back = self._failed(found, fails_at[worker], now, took, cell, left)
                queue.appendleft(cell)
                attached[worker], fails_at[worker] = None, self._next_failure(back)
                heapq.heappush(free, (back, worker))
                continue
            attached[worker] = self.adapters[cell]
            found.attaching += took
            found.ends.append(ends)
            found.makespan = max(found.makespan, ends)
            heapq.heappush(free, (ends, worker))
        return found

    def _next_failure(self, now: float) -> float:
        mtbf = self.cluster.mtbf
        return math.inf if math.isinf(mtbf) else now + self.rng.exponential(mtbf * HOUR)

    def _failed(
        self, found: Outcome, at: float, now: float, took: float, cell: int, left: list[float]
    ) -> float:
        """Account for a failure in a cell (or before it); when the worker is back."""
        cluster = self.cluster
        done = max(0.0, at - now - took)
        kept = 0.0
        if math.isfinite(cluster.checkpoint):
            kept = math.floor(done / cluster.checkpoint) * cluster.checkpoint
        left[cell] -= kept
        found.failures += 1
        found.lost += max(0.0, at - now) - kept + cluster.restart
        found.loading += cluster.load
        return max(at, now) + cluster.restart + cluster.load


def shared_queue(cells: Sequence[PlannedCell]) -> list[deque[int]]:
    """All workers take the next cell of the plan."""
    return [deque(range(len(cells)))]


def longest_first(seconds: Sequence[float]) -> list[deque[int]]:
    """All workers take the longest cell that is left."""
    return [deque(sorted(range(len(seconds)), key=lambda i: -seconds[i]))]


def shards(cells: Sequence[PlannedCell], count: int) -> list[deque[int]]:
    """A job array: each worker has a share of its own, as `aurac.runs.plan.shard_of` deals them."""
    by_task: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        by_task.setdefault(cell.task.name, []).append(i)
    dealt = [i for group in by_task.values() for i in group]
    return [deque(sorted(dealt[number::count])) for number in range(count)]


# --- the page -------------------------------------------------------------------------------------

KINDS = (
    Kind("choice", tasks=52, documents=250, seconds=25.0),
    Kind("generation", tasks=5, documents=1319, seconds=600.0, spread=0.5),
)
RANKS = tuple(2**i for i in range(9))
VARIANTS = 195


def row(name: str, cluster: Cluster, found: Outcome) -> str:
    """A line of the table."""
    shares = found.shares(cluster.gpus)
    hours = found.makespan * cluster.gpus / HOUR
    parts = [
        name,
        f"{found.makespan / HOUR:.2f}",
        f"{found.makespan / found.ideal:.3f}",
        *(f"{100 * shares[k]:.1f}" for k in ("work", "loading", "attaching", "lost")),
        f"{100 * shares['idle at the end']:.1f}",
        str(found.failures),
        f"{hours:,.0f}",
        f"{hours * cluster.price:,.0f}",
    ]
    return f"| {' | '.join(parts)} |"


def table(cluster: Cluster, seed: int) -> list[str]:
    """Every way of sharing and failing, simulated."""
    cells = planned(VARIANTS, RANKS, KINDS)
    seconds = drawn_seconds(cells, np.random.default_rng(seed))
    adapters = [cell.variant.name if cell.variant else None for cell in cells]

    def once(changed: Cluster, queues: Callable[[], list[deque[int]]]) -> Outcome:
        rng = np.random.default_rng([seed, 1])
        return Simulation(seconds, adapters, changed, rng).run(queues())

    ways: list[tuple[str, Cluster, Callable[[], list[deque[int]]]]] = [
        ("next cell of the plan", cluster, lambda: shared_queue(cells)),
        ("longest cell first (a bound)", cluster, lambda: longest_first(seconds)),
        ("`--shard i/n`", cluster, lambda: shards(cells, cluster.gpus)),
    ]
    for hours in (1000.0, 100.0, 10.0):
        name = f"a failure each {hours:,.0f} h of a GPU"
        ways.append((name, replace(cluster, mtbf=hours), lambda: shared_queue(cells)))
    frail = replace(cluster, mtbf=10.0, checkpoint=math.inf)
    ways.append(("the same, no checkpoints within cells", frail, lambda: shared_queue(cells)))
    alone = replace(cluster, readers=1)
    ways.append(("every GPU reads the base itself", alone, lambda: shared_queue(cells)))
    slow = replace(cluster, attach=10.0)
    ways.append(("10 s to attach an adapter", slow, lambda: shared_queue(cells)))
    found = {name: once(changed, queues) for name, changed, queues in ways}
    head = (
        "way | makespan (h) | × ideal | work % | loading % | attaching % | lost % | idle % | "
        "failures | GPU hours | cost"
    )
    lines = [f"| {head} |", "|---" * 11 + "|"]
    lines += [row(name, changed, found[name]) for name, changed, _ in ways]
    plain = found["next cell of the plan"]
    return [*lines, "", *_store_table(seconds, plain.makespan, cluster.gpus, seed)]


def _store_table(seconds: Sequence[float], makespan: float, gpus: int, seed: int) -> list[str]:
    cells = len(seconds)
    generated = VARIANTS * len(RANKS) * KINDS[1].tasks
    whole = (cells - generated) * cell_bytes(250, 40) + generated * cell_bytes(1319, 300)
    rates = f"{cells / makespan:.1f} cells and {whole / makespan / 1e6:.1f} MB a second"
    head = (
        "sharing | GPUs | for cells /s | signs of life /s | looks and tries /s | entries listed /s"
    )
    lines = [f"{cells:,} files, {whole / 1e9:.1f} GB in all, {rates}.", ""]
    lines += [f"| {head} |", "|---" * 6 + "|"]
    for mode in ("shared", "shards", "ray"):
        for workers in (32, 100, gpus):
            took, looks = makespan * gpus / workers, None
            if mode == "shared":
                walks = Walks(seconds, workers, seed)
                looks = walks.run()
                took = walks.makespan
            load = store_load(cells, workers, took, mode, looks)
            numbers = (load.cells, load.beats, load.looks, load.listings)
            shown = " | ".join(f"{value:,.1f}" for value in numbers)
            lines.append(f"| {mode} | {workers:,} | {shown} |")
    return lines


def main() -> None:
    """Simulate and print (or write) the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="the page whose tables are replaced")
    options = parser.parse_args()
    lines = table(Cluster(gpus=options.gpus), options.seed)
    print("\n".join(lines))
    if options.out:
        begin, end = "<!-- tables -->", "<!-- end of tables -->"
        text = options.out.read_text(encoding="utf-8")
        before, rest = text.split(begin)
        made = "\n".join([begin, "", *lines, "", end])
        options.out.write_text(before + made + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
