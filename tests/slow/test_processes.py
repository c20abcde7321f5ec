"""One folder, many processes: terminals, workers, Ray clusters, and kills. Small models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import runs_doubles
from runs_doubles import Task, planned, runner, stored
from small_runs import SMALL, TASK, assert_clean, command, curves, events, random_adapter

from aurac.records.store import CellStore, read_cell
from aurac.runs.compare import compare

pytestmark = [
    *(pytest.mark.slow, pytest.mark.cluster),
    pytest.mark.usefixtures("plain_figures"),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory):
    return random_adapter(tiny_base_folder, tmp_path_factory.mktemp("adapters") / "mine", rank=8)


@pytest.fixture(scope="module")
def undisturbed(adapter, tmp_path_factory):
    return compare([adapter], [TASK], out=tmp_path_factory.mktemp("whole") / "run", **SMALL).folder


def test_two_terminals_share_one_folder(adapter, undisturbed, tmp_path):
    out = tmp_path / "run"
    both = [
        subprocess.Popen(command(adapter, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    assert curves(out) == curves(undisturbed)
    begun = [event["key"] for event in events(out, "begin")]
    assert len(begun) == len(set(begun)) == 5  # each cell once
    for path in (out / "cells").iterdir():
        assert len(path.read_bytes().splitlines()) == 2
    assert_clean(out)


_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import aurac.runs.runner
from runs_doubles import Task, planned, runner, stored
from aurac.runs import plan
from aurac.runs.lock import Locks
from aurac.records.store import CellStore

plan.BLOCK_DOCUMENTS = {"cpu": 2}
aurac.runs.runner.MOST_DEATHS = 99  # kills may come faster than blocks
folder, draw, kills = Path(sys.argv[1]), random.Random(sys.argv[2]), 0
begun = folder.with_suffix(".txt")

def note(options):
    with begun.open("a") as file:
        file.write("x")

def cells():
    return planned(*(Task(f"t{k}", n=7, seconds=0.03, act=note) for k in range(5)))

def work():
    with Locks(folder) as locks:
        runner(folder, locks=locks).run(cells())
    os._exit(0)

while True:
    child = os.fork() or work()
    deadline, ended = time.monotonic() + draw.uniform(0, 0.15), 0
    while not ended and (kills >= 12 or time.monotonic() < deadline):
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    if ended:
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
assert os.waitstatus_to_exitcode(status) == 0
print(kills, len(begun.read_text()))
"""


def test_kills_at_random_moments_lose_one_block_each_at_most(tmp_path):
    """Five cells of four blocks; the finished run is that of one that nobody disturbed."""
    cells = planned(*(Task(f"t{k}", n=7) for k in range(5)))
    runner(tmp_path / "undisturbed").run(cells)
    path = os.pathsep.join([str(Path(runs_doubles.__file__).parent), *filter(None, sys.path)])
    for seed in range(2):
        folder = tmp_path / str(seed)
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(folder), str(seed)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        kills, begun = map(int, done.stdout.split())
        assert kills > 2
        assert 20 <= begun <= 20 + kills
        for cell in cells:
            one, other = stored(folder, cell), stored(tmp_path / "undisturbed", cell)
            assert other.missing == one.missing == []
            assert (one.metrics, one.responses) == (other.metrics, other.responses)
        assert list((folder / "locks").iterdir()) == []


def test_kills_of_a_whole_comparison(adapter, tmp_path):
    """Three here; `benchmarks/kills.py` is for more."""
    script = REPOSITORY / "benchmarks" / "kills.py"
    words = [str(adapter), "--tasks", TASK, "--limit", "5", "--kills", "3", "--seed", "5"]
    words += ["--block", "2", "--out", str(tmp_path / "kills.json")]
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    campaign = json.loads((tmp_path / "kills.json").read_text())
    assert campaign["kills"] == 3
    assert campaign["all_equal"]
    assert campaign["at_most_one_block_redone_per_kill"]
    assert not any(run["left_behind"] for run in campaign["runs"])


# Ray --------------------------------------------------------------------------------------------


def descendants(name, ancestor=None):
    """Process numbers of the programs of this name below a process."""
    for process in psutil.Process(ancestor).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if name in process.cmdline()[0]:
                yield process.pid


def wait_until(happens, seconds=240, pause=0.01):
    """What a function gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := happens()):
        assert time.monotonic() < deadline
        time.sleep(pause)
    return result


@contextlib.contextmanager
def meanwhile(act):
    """Do something beside the block; what it returns is in the list then."""
    results = []
    thread = threading.Thread(target=lambda: results.append(act()))
    thread.start()
    try:
        yield results
    finally:
        thread.join()


def test_a_dead_ray_worker_costs_a_block_and_the_bytes_are_the_same(adapter, tmp_path):
    """Two workers, five blocks a cell; one is killed once the folder has a part of a cell."""
    pytest.importorskip("ray")
    settings = {**SMALL, "limit": 600, "ranks": "8"}
    whole, out = tmp_path / "whole", tmp_path / "run"
    compare([adapter], [TASK], out=whole, **settings)

    def kill_in_a_cell():
        store = CellStore(out)
        wait_until(lambda: any(0 < store.count(key) < 600 for key in store.keys()))  # noqa: SIM118
        victim = wait_until(lambda: next(descendants("ray::compute_block"), None))
        os.kill(victim, signal.SIGKILL)
        return victim

    with meanwhile(kill_in_a_cell) as victims:
        compare([adapter], [TASK], out=out, executor="ray", **settings)
    assert len(victims) == 1
    assert curves(out) == curves(whole)
    for path in (whole / "cells").iterdir():
        cells = [read_cell(folder / "cells" / path.name) for folder in (whole, out)]
        assert set(cells[1].documents) == set(cells[0].documents)
        assert len((out / "cells" / path.name).read_bytes().splitlines()) == 1 + 5
    assert_clean(out)


def test_a_cluster_of_several_nodes_loses_one(adapter, undisturbed, tmp_path):
    """A head without processors and two nodes of one each; one is killed after the first cell."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = tmp_path / "run"
    quiet = {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    nodes = [cluster.add_node(num_cpus=1, **quiet) for _ in range(2)]

    def lose_a_node():
        done = wait_until(lambda: len(events(out, "cell")))
        cluster.remove_node(nodes[0], allow_graceful=False)
        return done

    try:
        with meanwhile(lose_a_node) as done:
            compare([adapter], [TASK], out=out, executor="ray", address=cluster.address, **SMALL)
    finally:
        cluster.shutdown()
    assert 1 <= done[0] < 5
    assert curves(out) == curves(undisturbed)
    assert len(events(out, "cell")) == 5
    assert_clean(out)


def test_a_lost_head_leaves_a_folder_that_goes_on(adapter, undisturbed, tmp_path):
    """One line and status 3, before Ray itself would end the process; the folder is whole."""
    pytest.importorskip("ray")
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(adapter, out, "--executor", "ray"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    [head] = wait_until(lambda: list(descendants("gcs_server", process.pid)))
    worker = wait_until(lambda: next(descendants("ray::compute_block", process.pid), None))
    os.kill(worker, signal.SIGSTOP)  # so that it cannot end before the loss is noticed
    os.kill(head, signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    assert process.returncode == 3, said
    assert "aurac: error: the Ray cluster was lost" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert_clean(out)
    compare([adapter], [TASK], out=out, **SMALL)
    assert curves(out) == curves(undisturbed)
    assert_clean(out)
