"""The simulator against closed forms: what is known without simulating must come out of it."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import aurac
from aurac.runs.plan import shard_of

SCRIPT = Path(aurac.__file__).parents[1] / "benchmarks" / "cluster_simulation.py"


@pytest.fixture(scope="module")
def sim():
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks come with the sources only")
    spec = importlib.util.spec_from_file_location("aurac_cluster_simulation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(SCRIPT.parent))  # where a script finds those beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture(scope="module")
def folder(sim):
    """What the simulator imports from the file beside it."""
    return sys.modules[sim.Walks.__module__]


def cluster(sim, **changes):
    plain = {"load": 0.0, "base_bytes": 0.0, "attach": 0.0, "restart": 0.0}
    return sim.Cluster(**{**plain, **changes})


def run(sim, seconds, made, queues=None, adapters=None, seed=0):
    rng = np.random.default_rng(seed)
    adapters = adapters or [None] * len(seconds)
    queues = queues or [deque(range(len(seconds)))]
    return sim.Simulation(seconds, adapters, made, rng).run(queues)


@pytest.mark.parametrize(("n", "m"), [(10, 3), (12, 4), (3, 5), (1000, 7), (1, 1)])
def test_equal_cells_take_the_rounds_that_they_need(sim, n, m):
    found = run(sim, [60.0] * n, cluster(sim, gpus=m))
    assert found.makespan == pytest.approx(math.ceil(n / m) * 60.0)
    assert found.ideal == pytest.approx(max(n * 60.0 / m, 60.0))
    assert found.work == pytest.approx(n * 60.0)
    assert len(found.ends) == n


def test_loads_come_before_the_work_and_share_the_bandwidth(sim):
    # 8 GPUs, 2 to a read: 4 reads of 10 GB at 1 GB/s are 40 s, more than the 30 of one alone.
    made = cluster(sim, gpus=8, load=30.0, base_bytes=10e9, bandwidth=1e9, readers=2)
    assert made.first_load == 40.0
    found = run(sim, [60.0] * 16, made)
    assert found.makespan == pytest.approx(40.0 + 120.0)
    assert found.loading == pytest.approx(8 * 40.0)
    assert sum(found.shares(8).values()) == pytest.approx(1.0)
    assert found.shares(8)["idle at the end"] == pytest.approx(0.0, abs=1e-9)


def test_an_adapter_is_attached_when_it_changes(sim):
    names = ["a", "a", "b", "b", "a"]
    found = run(sim, [10.0] * 5, cluster(sim, gpus=1, attach=2.0), adapters=names)
    assert found.attaching == pytest.approx(3 * 2.0)
    assert found.makespan == pytest.approx(5 * 10.0 + 3 * 2.0)


def test_list_scheduling_is_within_grahams_bound(sim):
    """Graham 1966: any order is within 2 - 1/M of the best; longest first within 4/3 - 1/(3M)."""
    draw = np.random.default_rng(3)
    for m in (2, 5, 16):
        seconds = list(draw.exponential(100.0, 200))
        any_order = run(sim, seconds, cluster(sim, gpus=m))
        sorted_order = run(sim, seconds, cluster(sim, gpus=m), sim.longest_first(seconds))
        assert any_order.makespan <= (2 - 1 / m) * any_order.ideal
        assert sorted_order.makespan <= (4 / 3 - 1 / (3 * m)) * any_order.ideal * 1.0001
        assert sorted_order.makespan >= sorted_order.ideal


def test_failures_cost_what_they_must(sim):
    """One GPU, cells of 1 h, no checkpoints: with rate λ a cell takes (e^{λt} - 1)/λ on average."""
    made = cluster(sim, gpus=1, mtbf=2.0, checkpoint=math.inf)
    found = run(sim, [3600.0] * 3000, made)
    expected = (math.exp(0.5) - 1) / 0.5 * 3600.0 * 3000
    assert found.makespan == pytest.approx(expected, rel=0.06)
    assert found.lost == pytest.approx(expected - 3000 * 3600.0, rel=0.12)
    # Failures come at their rate: half of one in an hour.
    assert found.failures == pytest.approx(found.makespan / 7200.0, rel=0.08)
    assert found.work + found.lost == pytest.approx(found.makespan)


def test_checkpoints_bound_what_a_failure_loses(sim):
    made = cluster(sim, gpus=4, mtbf=1.0, checkpoint=60.0, restart=10.0, load=5.0)
    found = run(sim, [3600.0] * 400, made)
    assert found.failures > 300
    assert found.lost <= found.failures * (60.0 + 10.0)
    # On average half of the 60 s: uniform within the interval between two checkpoints.
    assert found.lost / found.failures == pytest.approx(40.0, abs=4.0)
    assert found.loading == pytest.approx(5.0 * (found.failures + 4))


def test_shares_are_those_of_the_command_line(sim):
    kinds = (sim.Kind("a", 3, 10, 1.0), sim.Kind("b", 2, 10, 5.0))
    cells = sim.planned(4, (1, 2, 4), kinds)
    assert len(cells) == (4 * 3 + 1) * 5
    assert len({cell.identity.key for cell in cells}) == len(cells)
    for count in (1, 3, 7):
        ours = sim.shards(cells, count)
        for number, queue in enumerate(ours):
            wanted = shard_of(cells, number + 1, count)
            assert [cells[i] for i in queue] == wanted
    assert len(sim.shared_queue(cells)[0]) == len(cells)


def test_walks_do_every_cell_once_and_end_when_a_shared_queue_does(folder):
    draw = np.random.default_rng(5)
    seconds = list(draw.exponential(100.0, 400))
    for m in (1, 7, 40):
        walks = folder.Walks(seconds, m, seed=1)
        looks = walks.run()
        bound = max(sum(seconds) / m, *seconds)
        assert walks.makespan <= 2 * bound
        assert looks.cells >= 400
    alone = folder.Walks(seconds, 1, seed=1)
    # One worker looks for each cell once, and lists twice: at the start, and to see the end.
    assert (alone.run().cells, alone.looks.tries, alone.looks.rounds) == (400, 0, 2)
    assert alone.makespan == pytest.approx(sum(seconds))


def test_looks_are_far_fewer_than_every_worker_at_every_cell(folder):
    seconds = [60.0] * 6000
    looks = folder.Walks(seconds, 200, seed=1).run()
    assert looks.cells < 20 * 6000  # not 200 times


def test_the_store_is_asked_for_what_the_modes_do(folder):
    looks = folder.Looks(cells=300, tries=50, rounds=4, entries=90)
    shared = folder.store_load(100, 10, 1000.0, "shared", looks)
    assert shared.looks == pytest.approx(0.35)
    assert shared.cells == pytest.approx(0.1 * folder.PER_CELL)
    assert shared.beats == pytest.approx(1.0)
    listed = (100 * folder.LISTINGS_PER_CELL + 50) * 10 + 90
    assert shared.listings == pytest.approx(listed / 1000)
    apart = folder.store_load(100, 10, 1000.0, "shards")
    assert apart.looks == 0
    assert apart.listings == pytest.approx(0.1 * folder.LISTINGS_PER_CELL * 10)
    assert folder.store_load(100, 10, 1000.0, "ray").beats == pytest.approx(0.1)


def test_a_cells_file_is_as_large_as_one_that_was_written(folder, tmp_path):
    from aurac.runs.provenance import CellIdentity
    from aurac.runs.store import CellStore

    fields = dict.fromkeys(CellIdentity.__dataclass_fields__, "0" * 20)
    identity = CellIdentity(**{**fields, "rank": 1, "fit_factor": None, "scorer": 1})
    content = {
        "doc_ids": [str(i) for i in range(100)],
        "doc_hashes": ["0" * 64] * 100,
        "strata": None,
        "metrics": {"a": [1.0] * 100, "b": [0.0] * 100},
        "responses": ["x" * 40] * 100,
        "seconds": 1.0,
    }
    written = CellStore(tmp_path).put(identity, content).stat().st_size
    assert folder.cell_bytes(100, 40) == pytest.approx(written, rel=0.05)


def test_the_counted_operations_are_those_of_a_lease_and_a_cell(folder, tmp_path, monkeypatch):
    """Every system call that reaches the folder, counted while one cell is taken and stored."""
    import os

    from aurac.runs.lock import Leases
    from aurac.runs.provenance import CellIdentity
    from aurac.runs.store import CellStore

    calls = {"names": 0, "lists": 0}

    def count(module, name, kind):
        stock = getattr(module, name)

        def wrapped(*arguments, **options):
            calls[kind] += 1
            return stock(*arguments, **options)

        monkeypatch.setattr(module, name, wrapped)

    fields = dict.fromkeys(CellIdentity.__dataclass_fields__, "x")
    identity = CellIdentity(**{**fields, "rank": 1, "fit_factor": None, "scorer": 1})
    store = CellStore(tmp_path)
    with Leases(tmp_path) as leases:
        store.put(identity, {"x": 0})
        for name, kind in (("open", "names"), ("replace", "names"), ("unlink", "names"),
                           ("fsync", "names"), ("scandir", "lists")):  # fmt: skip
            count(os, name, kind)
        assert leases.acquire(identity.key)
        store.has(identity.key)
        assert not leases.lost(identity.key)
        store.put(identity, {"x": 1})
        leases.release(identity.key)
        counted = dict(calls)  # not what is listed when a process ends
    assert counted["lists"] == folder.LISTINGS_PER_CELL
    assert counted["names"] == pytest.approx(folder.PER_CELL, abs=3)
