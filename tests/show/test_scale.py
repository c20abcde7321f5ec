"""A report of many adapters and tasks stays readable: the benchmark's run at a smaller size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aurac.show import write_report

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "report_scale.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("report_scale", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("scale")
    module.make_run(folder, adapters=24, tasks=5, documents=30, ranks=(1, 4, 16))
    write_report(folder)
    return folder


def test_the_page_summarises_and_says_where_the_rest_is(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    for said in (
        "Of 5 tasks, the largest AURAC has",
        "curves below these are in table.csv",
        "Rank-accuracy curves of all tasks",
        "Sizes and accuracies of the other tasks are in points.csv",
    ):
        assert said in page, said
    # 24 adapters on 5 tasks: a row for each in the files, twenty of a task in the page.
    assert pq.read_table(folder / "table.parquet").num_rows == 24 * 5
    assert pq.read_table(folder / "points.parquet").num_rows == 24 * 5 * (3 + 1)
    assert page.count('<th scope="row">adapter-') < 24 * 5 * 2


def test_every_adapter_has_its_card_and_every_task_its_figure(folder):
    assert len(list((folder / "cards").iterdir())) == 24
    assert len(list((folder / "figures").glob("rank-accuracy-*.svg"))) == 5
    groups = pq.read_table(folder / "groups.parquet")  # every second task has strata
    assert set(groups["task"].to_pylist()) == {"task-01", "task-03"}
