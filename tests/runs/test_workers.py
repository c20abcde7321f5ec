"""Further processes of this machine: how they are started, heard and ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from harness_doubles import make_tokenizer
from runs_doubles import base, run_context
from small_runs import TASK

from aurac.models.device import SPINNING
from aurac.runs import ray, ray_worker, workers
from aurac.runs.interrupts import Interrupted
from aurac.runs.plan import plan
from aurac.tasks.lm_eval import build_tasks
from aurac.tasks.options import TaskOptions


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, "the others computed its cells"), (Interrupted, "the cell it was computing is left")],
)
def test_a_killed_workers_cells_are_called_done_only_if_they_are(
    stop, expected, tmp_path, monkeypatch, caplog
):
    def start(*_):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        worker.kill()
        worker.wait()
        return worker

    monkeypatch.setattr("aurac.runs.workers._start", start)
    job = {"settings": {"model": {"device": "cpu"}}}
    others = workers._others([job], 1, run_context(tmp_path))
    with pytest.raises(stop) if stop else contextlib.nullcontext(), others:
        if stop:
            raise stop
    assert [r.getMessage() for r in caplog.records if r.name.startswith("aurac")] == [
        f"a worker ended early by signal 9; {expected}"
    ]


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}])
def test_workers_share_cores_unless_the_user_says_otherwise(monkeypatch, given):
    """What a local worker is started with, and a Ray worker has before it imports torch."""
    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wanted = given or {"OMP_WAIT_POLICY": "PASSIVE"}
    seen = []
    monkeypatch.setattr(
        workers.subprocess,
        "Popen",
        lambda *_, env, **__: seen.append(env) or SimpleNamespace(stdin=None),
    )
    workers._start({}, 1)
    monkeypatch.setattr(ray_worker, "compute", lambda *_: seen.append(dict(os.environ)))
    ray.compute_block({}, {}, [])
    for environment in seen:
        assert {name: environment[name] for name in SPINNING if name in environment} == wanted
    assert len(seen) == 2


def test_a_selection_names_the_same_documents_in_another_process():
    """Of the places of a sample, which the other process knows as those of the whole task."""
    (task,) = build_tasks([TASK], tokenizer=make_tokenizer(), options=TaskOptions(limit=6))
    whole = plan([], [task], base())
    assert workers.selection(whole) is None
    assert workers.selected(whole, None) == whole
    (cell,) = whole
    sample = cell.of(task.only([4, 1, 3]))
    (same,) = workers.selected(whole, json.loads(json.dumps(workers.selection([sample]))))
    assert same.documents == tuple(cell.documents[place] for place in (4, 1, 3))
    assert same.identity == cell.identity
    assert same.task.doc_ids == sample.task.doc_ids == ("4", "1", "3")


def test_what_a_worker_writes_reaches_the_log_under_its_name(caplog):
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
    workers._relay(worker)
    worker.stdout.close()
    assert worker.wait() == 0
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("worker", "WARNING", "Loading kernels: 100%"),
        ("aurac.runs.runner", "WARNING", "out of memory: half"),
        ("worker", "WARNING", "WARNING kernels: a line of a library"),
    ]
