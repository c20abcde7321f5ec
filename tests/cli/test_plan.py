"""`aurac plan` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_cells import make_block, make_identity
from score_tables import outcomes_table, run

from aurac.cli import cli
from aurac.errors import AuracError
from aurac.records.cell import DocumentKey
from aurac.records.results_file import CurveRecord, Results
from aurac.records.store import CellStore
from aurac.runs.folder import REQUEST_FILE
from aurac.runs.log import duration


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
    assert content["spread"]["source"] == "pilot of 300 documents: lora and matryoshka"
    assert content["plans"][0]["documents"] <= content["plans"][0]["most"]
    for question in ("non-inferiority", "interval"):
        given = ["plan", "--delta", "0.05", "--pilot", table, "--question", question]
        text = run(*given, "--seeds", "1")
        assert "pilot of 300 documents" in text
        assert "at the pilot's upper limits" in text
    one = ["plan", "--delta", "0.05", "--pilot", table, "--question", "interval", "--seeds", "1"]
    assert "pilot of 300 documents: matryoshka)" in run(*one, "--between", "matryoshka")
    seeds = ("--delta", "0.05", "--sd", "0.3", "--seeds", "3")
    text = run("plan", *seeds)
    assert "up to 75 % of the variance over documents changes with the seed" in text
    assert "Seeds of the two recipes: paired by seed." in text
    content = json.loads(run("plan", *seeds, "--independent-seeds", "--json"))
    assert content["pairing"] == "independent seeds"
    assert content["spread"]["interaction"] == 0.75
    text = run("plan", "--delta", "0.01", "--sd", "0.3", "--seed-sd", "0.05", "--seeds", "3")
    assert "train more seeds" in text


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A run in `runs/` whose cells took .5 s a document at rank 1 and 1.5 s at rank 2."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "done"
    cells = {}
    for rank, seconds in ((1, 1.0), (2, 3.0)):
        identity, store = make_identity(rank=rank, task="arc"), CellStore(folder)
        keys = [DocumentKey(str(n), f"content{n}", f"prompt{n}") for n in range(2)]
        block = make_block(keys, {"acc,none": [1.0, 0.0]}, ["x", "y"], seconds=seconds)
        store.append(identity, block, 2)
        cells[rank] = store.path(identity.key).relative_to(folder).as_posix()
    row = {"adapter": "a", "task": "arc", "metric": "acc,none", "ranks": [1, 2], "cells": cells}
    curve = CurveRecord(**row, accuracy=[0.5, 0.5])
    Results(schema=1, curves=[curve]).write(folder)
    (folder / REQUEST_FILE).write_text("{}")
    return folder


def test_the_time_is_at_the_pace_of_a_finished_run(finished, quick):
    asked = ["plan", "--delta", "0.05", "--flip-rate", "0.15", "--seeds", "1,3"]
    text = run(*asked)
    assert "No time: no pace is known" in text
    content = json.loads(run(*asked, "--pace", finished, "--json"))
    assert content["pace"]["seconds"] == 1.0
    for row in content["plans"]:  # two recipes at two ranks each, and the base
        assert row["seconds"] == row["documents"] * (4 * row["seeds"] + 1)
    assert content["early"]["documents"] < content["early"]["budget"]
    text = run("plan", "--delta", "0.05", "--sd", "0.3", "--seeds", "1", "--pace", finished)
    total = int(re.search(r"--budget (\d+)`", text)[1])
    assert f"{total:,} ({duration(5 * total)}) documents" in text
    assert "1e+03 ms for a document" in text
    question = ["--question", "non-inferiority"]
    content = json.loads(run(*asked, *question, "--pace", finished, "--json"))
    assert content["plans"][0]["seconds"] == content["plans"][0]["documents"] * 2
    for given, words in ((["--task", "mmlu"], "of mmlu"), ([], None)):
        result = CliRunner().invoke(cli, [*asked, *given, "--pace", str(finished)])
        assert result.exit_code == 0 if words is None else words in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--delta", "0.02"], "one of --pilot, --sd and --flip-rate"),
        (["--delta", "0.1", "--flip-rate", "0.05"], "0.05 of the documents change"),
        (["--delta", "0.1", "--flip-rate", ".5", "--question", "interval"], "--flip-rate"),
        (["--delta", "0.02", "--sd", "3"], "--sd 3"),
        (["--delta", "0.02", "--sd", ".3", "--pace", "nowhere"], "nowhere does not exist"),
        (["--delta", "0.02", "--sd", ".3", "--seed-sd", "-1"], "--seed-sd -1"),
        (["--delta", "0.02", "--sd", ".3", "--seeds", "x"], "--seeds 'x'"),
        (["--delta", "0.02", "--pilot", "TABLE", "--task", "arc"], "no task 'arc'"),
        (["--delta", "0.02", "--pilot", "TABLE", "--between", "a,b"], "--between 'a';"),
        (
            ["--delta", "0.02", "--pilot", "TABLE", "--between", "lora"],
            "expected two adapters, A,B",
        ),
        (
            ["--delta", ".02", "--pilot", "TABLE", "--question", "non-inferiority", "--rank", "3"],
            "--rank 3",
        ),
        (["--delta", ".02", "--sd", ".3", "--between", "a,b"], "--between without a pilot"),
        (["--delta", ".02", "--sd", ".3", "--task", "arc"], "--task without a pilot"),
        (["--delta", ".02", "--pilot", "TABLE", "--rank", "4"], "--rank for the question diff"),
        (["--delta", ".02", "--pilot", "TABLE", "--sd", ".3"], "--sd with a pilot"),
    ],
)
def test_bad_requests_say_one_line(table, arguments, words):
    given = [str(table) if a == "TABLE" else a for a in arguments]
    result = CliRunner().invoke(cli, ["plan", *given])
    assert isinstance(result.exception, AuracError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
