"""`aurac recommend` as a user meets it: what to ship, and a gate for CI."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_runs import zoo_run
from score_tables import outcomes_table, run

import aurac
from aurac.cli import cli
from aurac.errors import AuracError


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return outcomes_table(tmp_path_factory.mktemp("recommend"))


def test_what_to_ship_comes_first(table):
    text = run("recommend", table, "--delta", "0.1")
    assert text.startswith(
        "Ship matryoshka at rank 2 on gsm8k: accuracy 67.3 % (69.3 % at rank 8)."
    )
    assert ["lora", "2", "of", "8", "53.0"] in [row.split()[:5] for row in text.splitlines()]
    assert "rank 2 is non-inferior to rank 8 at a margin of 10 points (95 % confidence" in text
    assert "margin needed" not in text
    details = run("recommend", table, "--margin", "0.1", "--details")
    assert "margin needed" in details
    assert "MOVER of gains and losses, independent documents" in details


def test_json_holds_fractions_and_what_to_ship(table):
    content = json.loads(run("recommend", table, "--delta", "0.1", "--json"))
    assert set(content) == {"recommended", "ship"}
    assert content["recommended"][0]["rank"] < 8
    (ship,) = content["ship"]
    # The leader was picked from two, so its tests have half of alpha.
    assert (ship["adapter"], ship["alpha"], ship["candidates"]) == (
        "matryoshka", 0.025, ["matryoshka"],
    )  # fmt: skip
    assert (ship["accuracy"], ship["full_rank"]) == (pytest.approx(202 / 300), 8)
    strict = json.loads(run("recommend", table, "--delta", "0.0001", "--json", "--details"))
    assert strict["recommended"][0]["rank"] == 8
    assert strict["recommended"][0]["smallest_delta"] > 0.0001


def test_a_run_knows_size_and_speed(tmp_path):
    folder = zoo_run(tmp_path, n=60).write()
    (ship,) = json.loads(run("recommend", folder, "--margin", "0.5", "--json"))["ship"]
    assert ship["bytes"] > 0
    assert ship["seconds_per_document"] > 0
    text = run("recommend", folder, "--margin", "0.5")
    assert "a document" in text
    assert "* as published (without P)" in text


def test_of_those_that_may_be_the_best_the_smallest_is_named(tmp_path):
    """The stored run as `--basis prefix` gives it, where LoRA and MatryoshkaLoRA are close."""
    stored = Path(aurac.__file__).parents[1] / "reports" / "word_problems"
    folder = shutil.copytree(stored, tmp_path / "run")
    results = json.loads((stored / "results.json").read_text())
    kept = [curve for curve in results["curves"] if curve["basis"] == "prefix"]
    for curve in (curve for curve in kept if curve["adapter"] == "lora"):
        curve |= {"role": "default", "default": True}
    (folder / "results.json").write_text(json.dumps(results | {"curves": kept}))
    first = run("recommend", folder, "--margin", "0.1").splitlines()[0]
    assert re.search(r"may be any of \w+, \w+; lora at rank \d+ is the smallest \(\d", first)


@pytest.mark.parametrize(
    ("asked", "rank", "code"),
    [
        (["--margin", "0.1"], 2, 0),
        (["--margin", "0.1"], 1, 4),
        (["--margin", "0.0001"], 4, 4),
        (["--min-accuracy", "0.45"], 4, 0),
        (["--min-accuracy", "0.55"], 8, 4),  # lora is not shown to reach it at any rank
        (["--min-accuracy", "0.45", "--margin", "0.1"], 2, 0),
        (["--min-accuracy", "0.45", "--margin", "0.1"], 1, 4),
    ],
)
def test_a_required_rank_is_a_gate(table, asked, rank, code):
    given = ["recommend", table, *asked, "--require-rank", rank]
    text = run(*given, code=code)
    assert ("may be shipped at rank" in text) == (code == 0)
    assert json.loads(run(*given, "--json", code=code))["shown"] is (code == 0)


def test_the_sentence_names_the_condition_that_binds(tmp_path):
    """The margin stops no rank, the minimum does."""
    lines = ["adapter,task,rank,doc_id,score"]
    for rank, wrong in ((1, 60), (8, 40)):
        lines += [f"x,t,{rank},{i},{int(i >= wrong)}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    text = run("recommend", tmp_path / "t.csv", "--margin", "0.2", "--min-accuracy", "0.72")
    assert text.startswith("Ship x at rank 8 on t")
    assert "No smaller rank is shown to be at least 72.0 % accurate." in text
    assert "to stay within" not in text


def test_an_accuracy_that_no_rank_is_shown_to_have(table):
    text = run("recommend", table, "--min-accuracy", "0.9")
    assert text.startswith("Ship nothing yet on gsm8k: no rank of matryoshka passes.")
    assert "lora on gsm8k: not even rank 8 is shown to be at least 90 % accurate" in text
    content = json.loads(run("recommend", table, "--min-accuracy", "0.9", "--json"))
    assert [row["rank"] for row in content["recommended"]] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", "2"], "margin 2"),
        (["--margin", "0.1", "--reference", "3"], "reference rank 3"),
        (["--min-accuracy", "45"], "min_accuracy 45"),
        (["--require-rank", "8"], "nothing to recommend by"),
        (["--margin", "0.1", "--budget", "50"], "--budget of a finished run"),
        (["--margin", "0.1", "-f", "5"], "--num-fewshot of a finished run"),
        (
            ["--margin", "0.1", "--tasks", "t", "--until", "decided", "--details"],
            "--details with --until",
        ),
    ],
)
def test_bad_requests_say_one_line(table, arguments, words):
    result = CliRunner().invoke(cli, ["recommend", str(table), *arguments])
    assert isinstance(result.exception, AuracError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
