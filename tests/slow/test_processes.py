"""One folder, many processes: pairs of them, Ray clusters, and kills. Small models."""

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
from support.small_runs import assert_clean, cell_files, command, curves, random_adapter, run_small

from aurac.records.cells import CellStore

pytest.importorskip("ray", reason="needs aurac[ray]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.usefixtures("plain_figures"),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory):
    return random_adapter(tiny_base_folder, tmp_path_factory.mktemp("adapters") / "mine", rank=8)


def test_kills_of_a_whole_comparison_and_pairs_of_them(tmp_path):
    """Three and two here; `benchmarks/kills.py` is for more. A pair asks nothing twice."""
    out = tmp_path / "kills.jsonl"
    words = ["--pairs", "2", "--kills", "3", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["pairs"], counts["wrong"]) == (2, [])
    assert counts["kills"] >= 3
    pairs = [line for line in map(json.loads, out.read_text().splitlines()) if "delay" in line]
    assert [pair["again"] for pair in pairs] == [0, 0]


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


def examples_in(folder):
    """How many examples each cell holds."""
    return [len(CellStore(folder).scores(Path(name).stem).places) for name in cell_files(folder)]


def test_ray_gives_the_same_of_a_family_and_of_fitted_factors(
    tiny_base_folder, tmp_path, monkeypatch
):
    """A family given with braces from the working folder."""
    monkeypatch.chdir(tmp_path)
    for rank in (1, 2, 4):
        random_adapter(tiny_base_folder, f"lora_r{rank}", rank=rank, seed=rank)
    random_adapter(tiny_base_folder, "mine", rank=4, layers=2)
    given = ["per rank=lora_r{1,2,4}", "mine"]
    for out, ray in (("alone", None), ("together", "local")):
        run_small(given, out, basis="prefix", rescale=("rule", "fit"), ranks="1,2,4", ray=ray)
    assert curves("together") == curves("alone")
    assert_clean("together")


def test_a_cluster_of_several_nodes_loses_one(adapter, tmp_path):
    """A head without processors and two nodes of one each, cells of five blocks.

    A node is killed once the folder has a part of a cell.
    """
    from ray.cluster_utils import Cluster

    settings = {"limit": 600, "ranks": "8"}
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_small(adapter, whole, **settings)
    quiet = {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    nodes = [cluster.add_node(num_cpus=1, **quiet) for _ in range(2)]

    def lose_a_node():
        wait_until((out / "cells").exists)
        wait_until(lambda: any(0 < count < 600 for count in examples_in(out)))
        cluster.remove_node(nodes[0], allow_graceful=False)
        return examples_in(out)

    try:
        with meanwhile(lose_a_node) as left:
            run_small(adapter, out, ray=cluster.address, **settings)
    finally:
        cluster.shutdown()
    assert min(left[0]) < 600
    assert curves(out) == curves(whole)
    assert set(examples_in(out)) == {600}
    assert_clean(out)


def test_a_lost_head_leaves_a_folder_that_goes_on(adapter, tmp_path):
    """One line and status 3; the folder is whole."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(adapter, out, "--ray", "local"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    [head] = wait_until(lambda: list(descendants("gcs_server", process.pid)))
    worker = wait_until(lambda: next(descendants("ray::answer", process.pid), None))
    os.kill(worker, signal.SIGSTOP)  # so that it cannot end before the loss is noticed
    os.kill(head, signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    assert process.returncode == 3, said
    assert "the Ray cluster was lost" in said.splitlines()[-1]
    assert "Traceback" not in said
    whole = run_small(adapter, tmp_path / "whole").folder
    run_small(adapter, out)
    assert curves(out) == curves(whole)
    assert_clean(out)


def test_a_cluster_that_is_not_there_is_one_line(adapter, tmp_path):
    done = subprocess.run(
        command(adapter, tmp_path / "run", "--ray", "127.0.0.1:1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "127.0.0.1:1 cannot be reached" in done.stderr.splitlines()[-1]
