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
    assert "matryoshka is better than lora, significant at the 0.05 level (Holm p < .001)." in text
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
    assert "is non-inferior to rank 8 (margin 0.1" in text
    assert "of the documents change" in text
    assert "delta needed" in text
    content = json.loads(run("recommend", table, "--delta", "0.1", "--json"))
    assert set(content) == {"recommended"}
    assert content["recommended"][0]["rank"] < 8
    strict = json.loads(run("recommend", table, "--delta", "0.0001", "--json", "--details"))
    assert strict["recommended"][0]["rank"] == 8
    assert strict["recommended"][0]["smallest_delta"] > 0.0001


def test_plan(table):
    # n = .15·((1.96 + .8416)/.02)² = 2943, and a few for t.
    assert "2,946" in run("plan", "--delta", "0.02", "--flip-rate", "0.15", "--seeds", "1")
    content = json.loads(run("plan", "--delta", "0.05", "--pilot", table, "--json"))
    assert [row["seeds"] for row in content["plans"]] == [1, 3, 5]
    assert content["spread"]["source"] == "pilot of 300 documents"
    for question in ("certificate", "interval"):
        text = run("plan", "--delta", "0.05", "--pilot", table, "--question", question)
        assert "pilot of 300 documents" in text
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
        (["recommend", "TABLE", "--delta", "2"], "delta 2"),
        (["recommend", "TABLE", "--delta", "0.1", "--reference", "3"], "reference rank 3"),
        (["plan", "--delta", "0.02"], "one of --pilot, --sd and --flip-rate"),
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
