"""`aurac compare` as it is typed: the answer, JSON, a dry run, and cells that fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from small_runs import TASK, random_adapter

from aurac.cli import cli
from aurac.errors import CellError
from aurac.tasks.evaltask import EvalTask

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def words(tiny_base_folder, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("compare")
    adapter = random_adapter(tiny_base_folder, folder / "mine", rank=4)
    command = ["compare", str(adapter), "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    return [*command, "--device", "cpu", "--ranks", "1,2", "--out", str(folder / "run")]


def run(words: list[str], *more: str) -> tuple[int | None, str, str]:
    done = CliRunner().invoke(cli, [*words, *more], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.return_value, done.stdout, done.stderr


def out_of(words: list[str]) -> Path:
    from pathlib import Path

    return Path(words[-1])


def test_a_dry_run_lists_the_cells_and_then_they_are_computed(words):
    code, shown, _ = run(words, "--dry_run", "--json")
    cells = json.loads(shown)["cells"]
    assert code == 0
    assert [(cell["rank"], cell["missing"]) for cell in cells] == [(0, 3), (4, 3), (1, 3), (2, 3)]
    assert not out_of(words).exists()
    code, shown, _ = run(words)
    assert code == 0
    assert "loss [at most]" in shown
    assert f"report: {out_of(words) / 'report.html'}" in shown
    code, shown, _ = run(words, "--dry-run")
    assert f"0 of 4 cells to compute in {out_of(words)}" in shown


def test_json_has_the_five_frames_and_the_report_is_named_elsewhere(words):
    code, shown, besides = run(words, "--margin", "0.9", "--json")
    frames = json.loads(shown)
    assert code == 0
    assert set(frames) == {"scores", "points", "pairs", "rank_pairs", "recommended"}
    assert [row["rank"] for row in frames["points"]] == [0, 1, 2, 4]
    assert "report: " in besides


def test_cells_that_fail_are_named_and_the_status_is_three(words, tmp_path, monkeypatch):
    judge, calls = EvalTask.judge, []

    def fails(self, places, answers):
        calls.append(places)
        if len(calls) == 3:
            raise CellError("the answers are no numbers")
        return judge(self, places, answers)

    monkeypatch.setattr(EvalTask, "judge", fails)
    code, shown, besides = run([*words[:-1], str(tmp_path / "run")])
    assert code == 3
    assert f"failed: mine (prefix, rule, rank 1) on {TASK}: the answers are no numbers" in besides
    assert "report: " in shown
    code, _, besides = run([*words[:-1], str(tmp_path / "run")])
    assert code == 0  # the same command tries it again
    assert "failed: " not in besides
