"""One folder, many processes: shards, workers, kills, Ray. Small models, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from runs_doubles import Model, Recorder, Task, base, planned, run_context, runner

from aurac.cli import cli
from aurac.engine import EngineOptions
from aurac.errors import RunFolderError
from aurac.runs.compare import compare
from aurac.runs.evaluator import Evaluator
from aurac.runs.interrupts import Interrupted
from aurac.runs.lock import Locks
from aurac.runs.runner import failure_of
from aurac.runs.status import read_status
from aurac.runs.store import CellStore, decode_line, encode_line, read_cell
from aurac.tasks.task import Evaluation
from aurac.training import make_recipe, train

TASK = "aurac_word_problems_mc"
COMMON = {"limit": 5, "dtype": "float32", "device": "cpu"}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    rows = [{"question": f"how many {a}", "answer": f"{a}"} for a in range(9)]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"name": "lora", "method": "lora", "rank": 8, "base": str(tiny_base_folder)}
    recipe |= {"data": str(root / "train.jsonl"), "steps": 5, "learning_rate": 0.1}
    return train(make_recipe({**recipe, "dtype": "float32"}), root / "lora").folder


@pytest.fixture(scope="module")
def undisturbed(adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return compare([adapter], [TASK], out=out, **COMMON)


def curves(folder):
    return json.dumps(json.loads((Path(folder) / "results.json").read_text())["curves"])


def command(adapter, out, *more):
    base = [sys.executable, "-m", "aurac", "compare", str(adapter), "--tasks", TASK]
    base += ["--limit", "5", "--dtype", "float32", "--device", "cpu", "--out", str(out)]
    return [*base, *more]


def events(folder, name):
    lines = [
        json.loads(line)
        for path in (Path(folder) / "logs").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line["event"] == name]


def clean(folder):
    """No lock and no temporary file is left."""
    assert list((Path(folder) / "locks").iterdir()) == []
    assert list(Path(folder).rglob(".*")) == []


def test_shards_divide_the_cells_and_a_last_call_gathers(
    adapter, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    counts = []
    for number in (2, 1, 3):
        done = compare([adapter], [TASK], out=out, shard=(number, 3), **COMMON)
        assert not (out / "results.json").exists()
        assert not done.failures
        assert not done.results.curves
        counts.append(done.cells)
    status = read_status(out)
    assert (status.state, status.left) == ("no results", 0)
    assert sorted(counts) == [1, 2, 2]  # four ranks and the base
    monkeypatch.setattr(Evaluation, "block", None)  # gathering computes nothing
    monkeypatch.setattr("aurac.runs.session.load_base", None)  # and loads no weights
    assert compare([adapter], [TASK], out=out, **COMMON).results.to_dict()["curves"]
    assert curves(out) == curves(undisturbed.folder)
    clean(out)


def outcomes(cell):
    """What a cell says of its documents."""
    return (cell.identity, cell.documents, cell.metrics, cell.responses, cell.logged)


def test_an_interrupted_cell_goes_on_where_it_was(adapter, tmp_path, monkeypatch):
    """Blocks of two documents; the signal comes in the second block of the third cell."""
    out = tmp_path / "run"
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})
    whole = compare([adapter], [TASK], out=tmp_path / "whole", **COMMON)
    block, places = Evaluation.block, []

    def noted(self, documents, progress=None):
        places.append(list(documents))
        if len(places) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return block(self, documents, progress)

    monkeypatch.setattr(Evaluation, "block", noted)
    with pytest.raises(Interrupted):
        compare([adapter], [TASK], out=out, **COMMON)
    counts = sorted(CellStore(out).count(key) for key in CellStore(out).keys())  # noqa: SIM118
    assert counts == [2, 5, 5]
    assert read_status(out).state == "stopped"
    compare([adapter], [TASK], out=out, **COMMON)
    assert places[8:] == [[2, 3], [4], *[[0, 1], [2, 3], [4]] * 2]
    assert curves(out) == curves(whole.folder)
    for path in (whole.folder / "cells").iterdir():
        assert outcomes(read_cell(path)) == outcomes(read_cell(out / "cells" / path.name))
    clean(out)


def test_a_folder_without_its_plan_or_with_cells_deleted_is_made_whole(adapter, tmp_path):
    out = tmp_path / "run"
    compare([adapter], [TASK], out=out, **COMMON)
    before = curves(out)
    (out / "plan.jsonl").write_bytes((out / "plan.jsonl").read_bytes()[:50])
    (out / "results.json").unlink()
    for path in list((out / "cells").iterdir())[::2]:
        path.unlink()
    assert read_status(out).total is None
    compare([adapter], [TASK], out=out, **COMMON)
    assert curves(out) == before
    status = read_status(out)
    assert (status.state, status.total, status.done) == ("done", 5, 5)


def test_a_profile_says_where_the_time_went(adapter, tmp_path):
    out = tmp_path / "run"
    compare([adapter], [TASK], out=out, profile=True, **COMMON)
    found = json.loads((out / "profile.json").read_text())
    assert {"build", "load", "forward", "rest of cells", "store", "report"} <= set(found["parts"])
    assert found["parts"]["store"]["count"] == 5
    assert sum(p["seconds"] for p in found["parts"].values()) <= found["seconds"] + 0.01


@pytest.mark.parametrize("name", ["report.md", "table.csv", "results.json"])
def test_a_report_that_cannot_be_written_is_not_done(
    adapter, undisturbed, tmp_path, monkeypatch, name
):
    """The disk is full at one file of the report; the same command writes the rest."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed.folder, out)
    assert read_status(out).state == "done"
    really = os.replace

    def refuse(source, target, **more):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        really(source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(RunFolderError, match="No space left"):
            compare([adapter], [TASK], out=out, **COMMON)
    assert read_status(out).state == "no report"
    said = CliRunner().invoke(cli, ["runs", "status", str(out)]).output
    assert "no report" in said
    assert "`aurac report` on the folder" in said
    compare([adapter], [TASK], out=out, **COMMON)
    assert read_status(out).state == "done"


def test_a_read_only_folder_is_one_line(adapter, undisturbed, monkeypatch):
    really = os.open

    def refuse(path, flags, *more, **named):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return really(path, flags, *more, **named)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(RunFolderError, match="Read-only file system"):
        compare([adapter], [TASK], out=undisturbed.folder, ranks="1", **COMMON)
    assert read_status(undisturbed.folder).state == "done"


def test_a_flipped_cell_is_refused_and_unlike_cells_make_no_curve(adapter, tmp_path):
    """What reads a run without the store: `aurac score RUN` and the like."""
    import msgspec

    from aurac.readers.run import read_run

    out = tmp_path / "run"
    done = compare([adapter], [TASK], out=out, **COMMON)
    assert read_run(out)
    path = out / done.results.to_dict()["curves"][0]["cells"]["4"]
    head, block = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + block.replace(b"0.0", b"1.0", 1))
    with pytest.raises(RunFolderError, match="lacks 5 of 5 documents; give the command of the run"):
        read_run(out)
    path.write_bytes(head.replace(b'"rank":4', b'"rank":8') + block)
    with pytest.raises(RunFolderError, match="is missing or damaged"):
        read_run(out)
    cell = decode_line(head)
    other = msgspec.structs.replace(cell.identity, dtype="bfloat16")
    path.write_bytes(encode_line(msgspec.structs.replace(cell, identity=other), 0) + block)
    with pytest.raises(RunFolderError, match="ranks 1 and 4 differ in dtype: they make no curve"):
        read_run(out)


# Several processes ------------------------------------------------------------------------------


@pytest.mark.cluster
def test_two_terminals_share_one_folder(adapter, undisturbed, tmp_path):
    out = tmp_path / "run"
    both = [
        subprocess.Popen(command(adapter, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    assert curves(out) == curves(undisturbed.folder)
    begun = [event["key"] for event in events(out, "begin")]
    assert len(begun) == len(set(begun)) == 5  # each cell once
    for path in (out / "cells").iterdir():
        assert len(path.read_bytes().splitlines()) == 2
    clean(out)


@pytest.mark.cluster
def test_a_worker_that_is_killed_costs_its_cell_at_most(
    adapter, undisturbed, tmp_path, monkeypatch
):
    """The worker gets its order and is killed; this process does all cells, and says so."""
    from aurac.runs import workers as local

    started = []
    start = local._start

    def start_and_kill(order, threads):
        worker = start(order, threads)
        started.append((worker, order, threads))
        worker.kill()
        worker.wait()
        return worker

    monkeypatch.setattr(local, "_start", start_and_kill)
    out = tmp_path / "run"
    compare([adapter], [TASK], out=out, workers=2, **COMMON)
    [(worker, order, threads)] = started
    assert worker.returncode == -signal.SIGKILL
    assert order["settings"]["model"]["device"] == "cpu"
    assert threads >= 1
    [ended] = events(out, "worker ended")
    assert ended["early"]
    assert curves(out) == curves(undisturbed.folder)
    clean(out)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, "the others computed its cells"), (Interrupted, "the cell it was computing is left")],
)
def test_a_killed_workers_cells_are_called_done_only_if_they_are(
    stop, expected, tmp_path, monkeypatch, caplog
):
    from aurac.runs.workers import _others

    def start(*_):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        worker.kill()
        worker.wait()
        return worker

    monkeypatch.setattr("aurac.runs.workers._start", start)
    job = {"settings": {"model": {"device": "cpu"}}}
    others = _others([job], 1, run_context(tmp_path))
    with pytest.raises(stop) if stop else contextlib.nullcontext(), others:
        if stop:
            raise stop
    assert [r.getMessage() for r in caplog.records if r.name.startswith("aurac")] == [
        f"a worker ended early by signal 9; {expected}"
    ]


@pytest.mark.cluster
def test_a_worker_alone_serves_an_order_and_ends_with_its_parent(adapter, undisturbed, tmp_path):
    """The order of a killed parent: the worker sees its end of the pipe close, and ends."""
    from dataclasses import asdict

    from aurac.runs.folder import open_run_folder
    from aurac.runs.session import open_session
    from aurac.runs.settings import Execution, Settings, to_plain

    session = open_session([adapter], [TASK], Settings.of(**COMMON))
    out = open_run_folder(tmp_path / "run", [TASK], session.request())
    order = {
        "folder": str(out),
        "checkpoints": [str(adapter)],
        "tasks": [TASK],
        "settings": to_plain(session.settings),
        "execution": asdict(Execution()),
    }
    worker = subprocess.Popen([sys.executable, "-m", "aurac.runs.workers"], stdin=-1)
    worker.stdin.write(json.dumps(order).encode() + b"\n")
    worker.stdin.flush()
    assert worker.wait(timeout=300) == 0
    worker.stdin.close()
    assert CellStore(out).keys() == CellStore(undisturbed.folder).keys()
    clean(out)
    orphan = subprocess.Popen([sys.executable, "-m", "aurac.runs.workers"], stdin=-1)
    orphan.stdin.write(json.dumps(order).encode() + b"\n")
    orphan.stdin.close()
    assert orphan.wait(timeout=300) in (-signal.SIGTERM, 130)


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}])
def test_workers_share_cores_unless_the_user_says_otherwise(monkeypatch, given):
    """What a local worker is started with, and a Ray worker has before it imports torch."""
    from aurac.models.device import SPINNING
    from aurac.runs import ray
    from aurac.runs import ray_worker as remote
    from aurac.runs import workers as local

    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wanted = given or {"OMP_WAIT_POLICY": "PASSIVE"}
    seen = []
    monkeypatch.setattr(
        local.subprocess,
        "Popen",
        lambda *_, env, **__: seen.append(env) or SimpleNamespace(stdin=None),
    )
    local._start({}, 1)
    monkeypatch.setattr(remote, "compute", lambda *_: seen.append(dict(os.environ)))
    ray.compute_block({}, {}, [])
    for environment in seen:
        assert {name: environment[name] for name in SPINNING if name in environment} == wanted
    assert len(seen) == 2


@pytest.mark.cluster
def test_kills_at_random_moments(adapter, tmp_path):
    """Three here; `benchmarks/kills.py` was run with more than fifty."""
    script = REPOSITORY / "benchmarks" / "kills.py"
    given = [str(adapter), "--tasks", TASK, "--limit", "5", "--kills", "3", "--seed", "5"]
    given += ["--block", "2"]
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(script), *given, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["kills"] == 3
    assert found["all_equal"]
    assert found["at_most_one_block_redone_per_kill"]
    assert not any(run["left_behind"] for run in found["runs"])


def ray_session():
    return pytest.importorskip("ray")


@pytest.mark.cluster
def test_ray_gives_the_same_bytes_and_does_a_dead_workers_cells_again(
    adapter, undisturbed, tmp_path, monkeypatch
):
    """Two workers; one of them is killed while it holds a cell."""
    ray_session()
    out = tmp_path / "run"
    victims = []

    def kill_a_worker():
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not victims:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    named = path.read_bytes().startswith(b"ray::compute_block")
                    ours = _below(int(path.parent.name), os.getpid())
                except OSError:
                    continue
                if named and ours:
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    victims.append(path.parent.name)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    compare([adapter], [TASK], out=out, executor="ray", workers=2, **COMMON)
    killer.join()
    assert len(victims) == 1
    assert curves(out) == curves(undisturbed.folder)
    assert len(events(out, "cell")) == 5
    clean(out)


def _below(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.cluster
def test_a_worker_that_dies_within_a_block_costs_that_block_alone(adapter, tmp_path):
    """Blocks of 128; the worker is killed once the run folder has a block of its cell."""
    ray_session()
    asked = {**COMMON, "limit": 600, "ranks": "8"}
    whole, out = tmp_path / "whole", tmp_path / "run"
    compare([adapter], [TASK], out=whole, **asked)
    victims = []

    def kill_in_a_cell():
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not victims:
            counts = [CellStore(out).count(key) for key in CellStore(out).keys()]  # noqa: SIM118
            if any(0 < count < 600 for count in counts):
                for pid in _named(b"ray::compute_block"):
                    if _below(pid, os.getpid()):
                        os.kill(pid, signal.SIGKILL)
                        victims.append(pid)
                        return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_in_a_cell)
    killer.start()
    compare([adapter], [TASK], out=out, executor="ray", workers=1, **asked)
    killer.join()
    assert len(victims) == 1
    assert curves(out) == curves(whole)
    for path in (whole / "cells").iterdir():
        cells = [read_cell(folder / "cells" / path.name) for folder in (whole, out)]
        assert set(cells[1].documents) == set(cells[0].documents)
        assert len((out / "cells" / path.name).read_bytes().splitlines()) == 1 + 5
    clean(out)


@pytest.mark.cluster
def test_a_cluster_of_several_nodes_loses_one(adapter, undisturbed, tmp_path):
    """A head without processors and two nodes of one each; one is killed after the first cell."""
    ray_session()
    from ray.cluster_utils import Cluster

    out = tmp_path / "run"
    quiet = {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    nodes = [cluster.add_node(num_cpus=1, **quiet) for _ in range(2)]
    lost = []

    def lose_a_node():
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not events(out, "cell"):
            time.sleep(0.05)
        lost.append(len(events(out, "cell")))
        cluster.remove_node(nodes[0], allow_graceful=False)

    thief = threading.Thread(target=lose_a_node)
    thief.start()
    try:
        compare([adapter], [TASK], out=out, executor="ray", address=cluster.address, **COMMON)
    finally:
        thief.join()
        cluster.shutdown()
    assert 1 <= lost[0] < 5
    assert curves(out) == curves(undisturbed.folder)
    assert len(events(out, "cell")) == 5
    clean(out)


def test_a_cluster_that_is_not_there_is_one_line(adapter, tmp_path):
    from aurac.runs.ray import ClusterError

    ray_session()
    with pytest.raises(ClusterError, match=r"127.0.0.1:1 cannot be reached"):
        compare(
            [adapter], [TASK], out=tmp_path / "r", executor="ray", address="127.0.0.1:1", **COMMON
        )


@pytest.mark.cluster
def test_a_lost_head_leaves_a_folder_that_goes_on(adapter, undisturbed, tmp_path):
    """Ray ends a driver whose head is gone, with whatever status; the folder is whole."""
    ray_session()
    out = tmp_path / "run"
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "3"}
    process = subprocess.Popen(
        command(adapter, out, "--executor", "ray", "--workers", "1"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not any(_below(pid, process.pid) for pid in _named(b"gcs_server")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [head] = [pid for pid in _named(b"gcs_server") if _below(pid, process.pid)]
    while not CellStore(out).keys():  # at work
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(head, signal.SIGKILL)
    process.wait(timeout=240)
    for path in (out / "cells").iterdir():
        read_cell(path)
    compare([adapter], [TASK], out=out, **COMMON)
    assert curves(out) == curves(undisturbed.folder)
    clean(out)


def _named(name):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in path.read_bytes().split(b"\0")[0]:
                yield int(path.parent.name)
        except OSError:
            continue


@dataclass(eq=False)
class FakeReference:
    identity: dict
    places: list


class FakeRay:
    """Tasks that are computed when they are waited for, one at a time, the last one first."""

    class exceptions:  # noqa: N801
        RayTaskError = WorkerCrashedError = NodeDiedError = OutOfMemoryError = RuntimeError

    def __init__(self, compute):
        self.compute, self.cancelled = compute, []

    def remote(self, _job, identity, places):
        return FakeReference(identity, places)

    def wait(self, references, **_):
        return [references[-1]], references[:-1]

    def get(self, reference):
        return self.compute(reference.identity, reference.places)

    def cancel(self, reference, **_):
        self.cancelled.append(reference)


def evaluator():
    return Evaluator(lambda: base(Model()), EngineOptions())


def ray_queue(folder, cells, compute, **context):
    from aurac.runs.ray import _Queue

    fake = FakeRay(compute)
    queue = _Queue(fake, fake, None, run_context(folder, **context), cells)
    while queue.submit(3):
        queue.collect()
    return queue


@pytest.fixture
def blocks_of_two(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})


@pytest.mark.usefixtures("blocks_of_two")
def test_blocks_that_come_back_in_any_order_make_whole_cells(tmp_path):
    """One cell is half done, one is done; every bar is full, every cell is settled once."""
    first = planned(Task("a", n=3), Task("b", n=7))
    runner(tmp_path).run(first)
    cells = planned(Task("a", n=7), Task("b", n=7), Task("c", n=5))
    made, seen = evaluator(), Recorder()
    by_key = {cell.identity.to_dict()["task"]: cell for cell in cells}

    def compute(identity, places):
        [block] = made.blocks(by_key[identity["task"]], places)
        return block

    with Locks(tmp_path) as locks:
        ray_queue(tmp_path, cells, compute, locks=locks, progress=seen)
        assert locks.keys() == set()
    assert sorted(seen.ended) == [("a", "done"), ("b", "done by another process"), ("c", "done")]
    assert sum(seen.counts) == 19
    assert sorted(by_key["a"].task.blocks) == [[3], [4, 5], [6]]
    for cell in cells:
        whole = CellStore(tmp_path).read(cell.identity.key, cell.documents)
        assert whole.missing == []
        assert whole.responses == [f"{cell.task.name}{k}" for k in range(cell.task.n)]


@pytest.mark.usefixtures("blocks_of_two")
def test_one_block_that_fails_is_the_cells_failure_and_the_others_are_ignored(tmp_path):
    cells = planned(Task("a", n=9), Task("b", n=2))
    made, seen = evaluator(), Recorder()
    by_key = {cell.identity.to_dict()["task"]: cell for cell in cells}

    def compute(identity, places):
        cell = by_key[identity["task"]]
        if cell.task.name == "a" and places == [2, 3]:
            return failure_of(cell, "ValueError: why", "ValueError", 1.0)
        [block] = made.blocks(cell, places)
        return block

    with Locks(tmp_path) as locks:
        ray_queue(tmp_path, cells, compute, locks=locks, progress=seen)
        assert locks.keys() == set()
    store, key = CellStore(tmp_path), cells[0].identity.key
    assert store.failure(key).reason == "ValueError: why"
    assert store.read(key).doc_ids == ["4", "5", "6", "7", "8"]  # 0 and 1 came too late
    assert sorted(seen.ended) == [("a", "failed"), ("b", "done")]
    assert sum(seen.counts) == 11


def test_what_a_worker_writes_reaches_the_log_under_its_name(caplog):
    from aurac.runs.workers import _relay

    code = (
        "import logging, sys; from aurac.runs.workers import LINE\n"
        "logging.basicConfig(format=LINE)\n"
        "print('Loading kernels: 100%')\n"
        "logging.getLogger('aurac.runs.runner').warning('out of memory: %s', 'half')\n"
        "logging.getLogger('kernels').warning('a line of a library')\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    _relay(worker)
    worker.stdout.close()
    assert worker.wait() == 0
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("worker", "WARNING", "Loading kernels: 100%"),
        ("aurac.runs.runner", "WARNING", "out of memory: half"),
        ("worker", "WARNING", "WARNING kernels: a line of a library"),
    ]
