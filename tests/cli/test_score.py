"""`aurac score`, `recommend` and `plan` as a user meets them: text, JSON, exit codes, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import aurac
from aurac.cli import cli
from aurac.errors import AuracError

ROOT = Path(aurac.__file__).parents[1]
RANKS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    draw = np.random.default_rng(0)
    hard = draw.standard_normal(300)
    lines = ["adapter,task,rank,doc_id,score"]
    for name, shift in (("lora", 0.0), ("matryoshka", 0.4)):
        for k, rank in enumerate(RANKS):
            noise = draw.standard_normal(300)
            right = 0.95 * hard + 0.3 * noise + shift + 0.1 * min(k, 2) > 0
            lines += [f"{name},gsm8k,{rank},d{d},{int(x)}" for d, x in enumerate(right)]
    path = tmp_path_factory.mktemp("score") / "outcomes.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_score_prints_the_analysis(table):
    text = run("score", table)
    assert "AURAC log2" in text
    assert "t with 299 df" in text
    assert "significant, Holm p < .001), conditional on these checkpoints." in text
    assert "conditional on these checkpoints" in text
    assert "Smallest non-inferior rank" in text


def test_score_json_is_the_issues(table):
    content = json.loads(run("score", table, "--json"))
    assert set(content) == {"scores", "pairs", "recommended"}
    assert content["pairs"][0]["difference"] > 0
    assert content["pairs"][0]["p_holm"] < 0.001
    assert [row["adapter"] for row in content["recommended"]] == ["lora", "matryoshka"]
    details = json.loads(run("score", table, "--json", "--details"))
    assert details["pairs"][0]["gained"]
    assert details["aggregates"] == []


def test_the_same_seed_gives_the_same_output(table):
    assert run("score", table, "--json") == run("score", table, "--json")


def test_points_say_why_there_is_no_interval(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("rank,accuracy\n1,.31\n2,.35\n4,.40\n")
    text = run("score", path)
    assert "0.3525" in text
    assert "point value (no per-document outcomes)" in text
    content = json.loads(run("score", path, "--json"))
    assert content["scores"][0]["log2"] == {
        "value": pytest.approx(0.3525),
        "se": None,
        "low": None,
        "high": None,
    }


def test_recommend(table):
    text = run("recommend", table, "--delta", "0.1")
    assert "is non-inferior to rank 8 at a margin of 10 points" in text
    assert "of the documents change" in text
    assert "delta needed" in text
    content = json.loads(run("recommend", table, "--delta", "0.1", "--json"))
    assert set(content) == {"recommended"}
    assert content["recommended"][0]["rank"] < 8
    strict = json.loads(run("recommend", table, "--delta", "0.0001", "--json", "--details"))
    assert strict["recommended"][0]["rank"] == 8
    assert strict["recommended"][0]["smallest_delta"] > 0.0001


def test_score_allows_for_the_leader_having_been_picked(table):
    content = json.loads(run("score", table, "--json", "--details"))
    (row,) = content["best"]
    alone = next(s for s in content["scores"] if s["adapter"] == "matryoshka")["log2"]
    assert (row["leader"], row["compared"]) == ("matryoshka", 2)
    assert row["estimate"]["value"] == alone["value"]
    assert row["estimate"]["low"] < alone["low"] < alone["high"] < row["estimate"]["high"]
    assert row["candidates"] == ["matryoshka"]
    assert row["recommended"]["alpha"] == 0.025
    text = run("score", table)
    assert "widened because the largest of 2 was picked" in text
    assert "It is the best of them (95 % confidence)" in text
    assert "alpha 0.025, since it was picked from 2" in run("recommend", table, "--margin", "0.1")


@pytest.mark.parametrize(
    ("question", "adapter", "to", "margin", "shown"),
    [
        ("--non-inferior", "matryoshka", "lora", "0.02", True),
        ("--non-inferior", "lora", "matryoshka", "0.02", False),
        ("--non-inferior", "lora", "matryoshka", "0.3", True),
        ("--equivalent", "lora", "matryoshka", "0.3", True),
        ("--equivalent", "matryoshka", "lora", "0.02", False),
    ],
)
def test_margins_between_adapters_are_a_gate(table, question, adapter, to, margin, shown):
    arguments = ["score", str(table), question, adapter, "--to", to, "--margin", margin]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == (0 if shown else 4)
    assert (
        f"margin {100 * float(margin):g} points, conditional on these checkpoints." in done.output
    )
    content = json.loads(
        CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False).output
    )
    (row,) = content["margin_tests"]
    assert content["shown"] is row["shown"] is shown
    assert row["level"] == pytest.approx(0.9)


def test_a_gate_exits_with_4_where_nothing_is_shown(table):
    done = subprocess.run(
        [sys.executable, "-m", "aurac", "score", str(table), "--non-inferior", "lora", "--to",
         "matryoshka", "--margin", "0.01"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "lora is inferior to matryoshka on gsm8k by more than the margin" in done.stdout


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
    for question in ("certificate", "interval"):
        given = ["plan", "--delta", "0.05", "--pilot", table, "--question", question]
        text = run(*given, "--seeds", "1")
        assert "pilot of 300 documents" in text
        assert "at the pilot's upper limits" in text
    text = run("plan", "--delta", "0.01", "--sd", "0.3", "--seed-sd", "0.05", "--seeds", "3")
    assert "train more seeds" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "nowhere.csv"], "nowhere.csv does not exist"),
        (["score", "TABLE", "--axis", "log"], "axis 'log'"),
        (["score", "TABLE", "--group", "x"], "--group 'x'"),
        (["score", "TABLE", "--group", "x=qlora"], "group x names 'qlora'"),
        (["score", "TABLE", "TABLE"], "appears 2 times"),
        (["recommend", "TABLE", "--delta", "2"], "margin 2"),
        (["recommend", "TABLE", "--delta", "0.1", "--reference", "3"], "reference rank 3"),
        (["plan", "--delta", "0.02"], "one of --pilot, --sd and --flip-rate"),
        (["plan", "--delta", "0.1", "--flip-rate", "0.05"], "0.05 of the documents change"),
        (["plan", "--delta", "0.1", "--flip-rate", ".5", "--question", "interval"], "--flip-rate"),
        (["score", "TABLE", "--non-inferior", "lora"], "an incomplete margin test"),
        (["score", "TABLE", "--margin", "0.1"], "an incomplete margin test"),
        (["score", "TABLE", "--equivalent", "x", "--to", "lora", "--margin", ".1"], "adapter 'x'"),
        (["score", "TABLE", "--equivalent", "lora", "--to", "lora", "--margin", ".1"], "itself"),
        (
            ["score", "TABLE", "--equivalent", "lora", "--to", "matryoshka", "--margin", "2"],
            "margin 2",
        ),
        (["plan", "--delta", "0.02", "--sd", "3"], "--sd 3"),
        (["plan", "--delta", "0.02", "--sd", ".3", "--seed-sd", "-1"], "--seed-sd -1"),
        (["plan", "--delta", "0.02", "--sd", ".3", "--seeds", "x"], "--seeds 'x'"),
        (["plan", "--delta", "0.02", "--pilot", "TABLE", "--task", "arc"], "no task 'arc'"),
        (["plan", "--delta", "0.02", "--pilot", "TABLE", "--between", "a,b"], "--between a"),
        (["plan", "--delta", "0.02", "--pilot", "TABLE", "--between", "lora"], "one adapter"),
        (
            ["plan", "--delta", ".02", "--pilot", "TABLE", "--question", "certificate",
             "--rank", "3"],
            "--rank 3",
        ),
    ],
)  # fmt: skip
def test_bad_requests_say_one_line(table, arguments, words):
    given = [str(table) if a == "TABLE" else a for a in arguments]
    result = CliRunner().invoke(cli, given)
    assert isinstance(result.exception, AuracError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_process_of_its_own_exits_with_2_and_loads_no_torch(table, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("adapter,score\nx,1\n")
    done = subprocess.run(
        [sys.executable, "-m", "aurac", "score", str(bad)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    code = (
        "import sys\n"
        "from aurac.cli import cli\n"
        f"cli.main(['score', {str(table)!r}, '--json'], standalone_mode=False)\n"
        "print({'torch', 'transformers', 'lm_eval'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr.strip() == "set()"
    assert json.loads(done.stdout)["scores"]
