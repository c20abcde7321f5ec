"""`--ranks auto` on a tiny random Llama, and what it refuses."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from small_runs import TASK, random_adapter

from aurac.cli import cli
from aurac.runs.compare import compare

COMMON = {"limit": 40, "dtype": "float32", "device": "cpu", "ranks": "auto", "margin": 0.001}


@pytest.fixture(scope="module")
def adapters(tiny_base_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [
        random_adapter(tiny_base_folder, root / name, name=name, rank=16, seed=seed)
        for seed, name in enumerate("ab")
    ]


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    return compare(adapters, [TASK], out=tmp_path_factory.mktemp("runs") / "run", **COMMON)


def test_x(run):
    print(run.results.rank_choice)
    print([(c.ranks, c.accuracy, c.score_pow2) for c in run.results.curves])
    print((run.folder / "report.md").read_text()[-3000:])
    assert 0
