"""`aurac plan` as a user meets it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from score_tables import outcomes_table, run

from aurac.cli import cli
from aurac.errors import AuracError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return outcomes_table(tmp_path_factory.mktemp("plan"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("aurac.stats.power.SEARCHED", 60)
    monkeypatch.setattr("aurac.stats.power.CHECKED", 100)


def test_plan(table, quick):
    text = run("plan", "--delta", "0.05", "--flip-rate", "0.15", "--seeds", "1")
    assert "flip rate 0.15" in text
    assert "simulated power" in text
    content = json.loads(run("plan", "--margin", "0.05", "--pilot", table, "--json"))
    assert [row["seeds"] for row in content["plans"]] == [1, 3, 5]
    assert content["spread"]["source"] == "pilot of 300 documents"
    assert content["plans"][0]["documents"] <= content["plans"][0]["most"]
    for question in ("non-inferiority", "certificate", "interval"):
        given = ["plan", "--delta", "0.05", "--pilot", table, "--question", question]
        text = run(*given, "--seeds", "1")
        assert "pilot of 300 documents" in text
        assert "at the pilot's upper limits" in text
    text = run("plan", "--delta", "0.01", "--sd", "0.3", "--seed-sd", "0.05", "--seeds", "3")
    assert "train more seeds" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--delta", "0.02"], "one of --pilot, --sd and --flip-rate"),
        (["--delta", "0.1", "--flip-rate", "0.05"], "0.05 of the documents change"),
        (["--delta", "0.1", "--flip-rate", ".5", "--question", "interval"], "--flip-rate"),
        (["--delta", "0.02", "--sd", "3"], "--sd 3"),
        (["--delta", "0.02", "--sd", ".3", "--seed-sd", "-1"], "--seed-sd -1"),
        (["--delta", "0.02", "--sd", ".3", "--seeds", "x"], "--seeds 'x'"),
        (["--delta", "0.02", "--pilot", "TABLE", "--task", "arc"], "no task 'arc'"),
        (["--delta", "0.02", "--pilot", "TABLE", "--between", "a,b"], "--between a"),
        (["--delta", "0.02", "--pilot", "TABLE", "--between", "lora"], "one adapter"),
        (
            ["--delta", ".02", "--pilot", "TABLE", "--question", "certificate", "--rank", "3"],
            "--rank 3",
        ),
    ],
)
def test_bad_requests_say_one_line(table, arguments, words):
    given = [str(table) if a == "TABLE" else a for a in arguments]
    result = CliRunner().invoke(cli, ["plan", *given])
    assert isinstance(result.exception, AuracError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
