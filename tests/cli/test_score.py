"""`aurac score` as a user meets it: text, JSON, exit codes, no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from score_tables import outcomes_table, run

import aurac
from aurac.cli import cli
from aurac.errors import AuracError, DataError

ROOT = Path(aurac.__file__).parents[1]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return outcomes_table(tmp_path_factory.mktemp("score"))


def test_score_prints_the_analysis(table):
    text = run("score", table)
    rows = [line.split() for line in text.splitlines()]
    assert ["adapter", "r=1", "r=2", "r=4", "r=8", "AURAC", "log2", "[95", "%]"] in rows
    assert ["matryoshka", "62.0", "67.3", "70.3", "69.3", "67.8", "[63.2,", "72.4]"] in rows
    assert "14.6 [11.6, 17.7]" in text
    assert "matryoshka is better" in text
    assert "conditional on these checkpoints" in text
    assert "smallest rank within the margin" not in text
    assert "t with 299 df" not in text


def test_details_name_methods_and_say_each_pair_in_a_sentence(table):
    text = run("score", table, "--details")
    assert "AURAC linear 68.8 [64.2, 73.4] %; t with 299 df" in text
    assert "matryoshka is better than lora on gsm8k by 14.6 points (95 % interval" in text
    assert "significant, Holm p < .001), conditional on these checkpoints." in text
    assert "8:+51/−5" in text


def test_score_json_is_the_issues(table):
    content = json.loads(run("score", table, "--json"))
    names = "schema axis level scores pairs variants best aggregates recommended"
    assert set(content) == {*names.split()}
    assert content["pairs"][0]["difference"] > 0
    assert content["pairs"][0]["p_holm"] < 0.001
    assert content["recommended"] == []
    asked = json.loads(run("score", table, "--json", "--delta", "0.1"))
    assert [row["adapter"] for row in asked["recommended"]] == ["lora", "matryoshka"]
    assert "The smallest rank within the margin\nlora" in run("score", table, "--delta", "0.1")
    details = json.loads(run("score", table, "--json", "--details"))
    assert details["pairs"][0]["gained"]
    assert details["aggregates"] == []


def test_the_same_seed_gives_the_same_output(table):
    assert run("score", table, "--json") == run("score", table, "--json")


def test_a_metric_of_a_table_that_names_none_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "rank,doc_id,score\n" + "".join(f"{r},{d},{d % 2}\n" for r in (1, 2) for d in range(2))
    )
    with pytest.raises(DataError, match="expected a source that names its metrics; leave --metric"):
        CliRunner().invoke(cli, ["score", str(path), "--metric", "acc"], catch_exceptions=False)


def test_metrics_of_one_task_have_no_mean(tmp_path):
    path = tmp_path / "t.csv"
    rows = [
        f"{task},{metric},{r},{d},{(d * r + len(metric)) % 3 % 2}"
        for task, metric in (("u", "acc"), ("u", "f1"), ("v", "acc"))
        for r in (1, 2)
        for d in range(30)
    ]
    path.write_text("\n".join(["task,metric,rank,doc_id,score", *rows]))
    (row,) = json.loads(run("score", path, "--json"))["aggregates"]
    assert (row["estimate"], "several metrics" in row["reason"]) == (None, True)
    (row,) = json.loads(run("score", path, "--json", "--metric", "acc"))["aggregates"]
    assert row["estimate"]["value"] > 0


def test_nothing_is_called_paired_where_nothing_is_and_json_says_why(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("adapter,rank,accuracy\nx,1,.2\nx,2,.3\ny,1,.2\ny,4,.25\n")
    text, content = run("score", path), json.loads(run("score", path, "--json"))
    assert "\nDifferences of AURAC log2\n" in text
    assert "aired differences" not in text
    (pair,) = content["pairs"]
    assert pair["reason"] in text


def test_a_sentence_has_the_direction_of_its_row_and_a_dash_is_explained(tmp_path):
    path = tmp_path / "t.csv"
    rows = [
        f"{a},{r},{d},{int(d < n)}"
        for a, n in (("b", 4), ("a", 3))
        for r in (1, 2)
        for d in range(5)
    ]
    path.write_text("\n".join(["adapter,rank,doc_id,score", *rows]))
    text = run("score", path, "--details")
    (row,) = re.findall(r"^(\w − \w) +(\d+\.\d) ", text, re.MULTILINE)
    assert row == ("b − a", "20.0")
    assert "The difference b − a (20 points" in text
    assert re.search(r"^b − a .* –  ", text, re.MULTILINE)
    assert "; –: more than scores allow" in text


def test_what_the_text_says_is_in_the_json_without_details(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{t},{r},{d},{(d + r) % 2 * 1}" for t in "uv" for r in (0, 1, 2) for d in range(30)]
    path.write_text("\n".join(["task,rank,doc_id,score", *rows]))
    content = json.loads(run("score", path, "--json"))
    assert (content["schema"], content["axis"], content["level"]) == (1, "log2", 0.95)
    assert content["scores"][0]["above_base"] == {"1": False, "2": False}
    (row,) = content["aggregates"]
    assert row["tasks"] == ["u", "v"]
    text = run("score", path)
    assert "not shown to be above the base at any rank" in text
    assert f"{100 * row['estimate']['value']:.1f}" in text.partition("all tasks")[2]


def test_a_difference_over_shared_ranks_says_which(tmp_path):
    rows = [
        f"{adapter},{rank},{doc},{(doc * rank + len(adapter)) % 3 % 2}"
        for adapter, ranks in (("x", (1, 2, 4, 8)), ("yy", (2, 4)))
        for rank in ranks
        for doc in range(60)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["adapter,rank,doc_id,score", *rows]))
    assert re.search(
        "(x − yy|yy − x): over ranks 2, 4, which both have",
        run("score", path, "--support", "common"),
    )
    assert "which both have" not in run("score", path)
    header = "task,adapter,rank,doc_id,score"
    both = [f"{task},{row}{task}" for task in "01" for row in rows]
    path.write_text(
        "\n".join([header, *(f"{r[:-2]}{(int(r[-2]) + int(r[-1])) % 2}" for r in both)])
    )
    text = run("score", path, "--support", "common")
    (line,) = [line for line in text.splitlines() if "all tasks: " in line]
    assert line.endswith("over the ranks that both have on each task; scores are over all ranks.")
    assert re.search(f"^{line.partition(',')[0]} +\\d", text, re.MULTILINE)  # the larger one first
    assert "all tasks: " not in run("score", path)
    done = CliRunner().invoke(cli, ["score", str(path), "--support", "comon"])
    assert (done.exit_code, "'comon' is not 'common'" in done.output) == (2, True)


def test_points_say_why_there_is_no_interval(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("rank,accuracy\n1,.31\n2,.35\n4,.40\n")
    text = run("score", path)
    assert "35.3" in text
    assert "point value (no per-document outcomes)" in text
    content = json.loads(run("score", path, "--json"))
    assert content["scores"][0]["accuracy"] == [0.31, 0.35, 0.4]
    assert content["scores"][0]["log2"] == {
        "value": pytest.approx(0.3525),
        "se": None,
        "low": None,
        "high": None,
    }


def test_intervals_of_ranks_in_a_table_count_as_they_do_in_a_frame(tmp_path):
    path = tmp_path / "ends.csv"
    path.write_text("rank,accuracy,low,high\n0,0,,\n1,0.3,0.25,0.35\n2,0.405,0.355,0.455\n")
    (row,) = json.loads(run("score", path, "--json"))["scores"]
    known = aurac.score(path).log2
    assert (row["log2"]["low"], row["log2"]["high"]) == (known.low, known.high)
    assert (known.low, known.high) == pytest.approx((0.3025, 0.4025))
    assert "No interval" not in run("score", path)


def test_margin_tests_take_the_names_of_tables():
    kept, question = ROOT / "reports" / "word_problems", ["--margin", "0.2"]
    text = run("score", kept, "--equivalent", "lora (SVD)", "--to", "lora (prefix)", *question)
    assert text.startswith("lora (SVD) is equivalent to lora (prefix) on aurac_word_problems")
    with pytest.raises(AuracError, match=r"'lora \(SVD\)' against itself"):
        run("score", kept, "--equivalent", "lora (SVD)", "--to", "lora", *question)


def test_a_table_of_several_truncations_asks_for_one(tmp_path):
    path = tmp_path / "samples.csv"
    rows = [f"{basis},{rank},d,1\n" for basis in ("svd", "prefix") for rank in (1, 2)]
    path.write_text("".join(["basis,rank,doc_id,score\n", *rows]))
    with pytest.raises(AuracError, match="select one basis"):
        run("score", path)


def test_score_allows_for_the_leader_having_been_picked(table):
    content = json.loads(run("score", table, "--json", "--details"))
    (row,) = content["best"]
    alone = next(s for s in content["scores"] if s["adapter"] == "matryoshka")["log2"]
    assert (row["leader"], row["compared"]) == ("matryoshka", 2)
    assert row["estimate"]["value"] == alone["value"]
    assert row["estimate"]["low"] < alone["low"] < alone["high"] < row["estimate"]["high"]
    assert row["candidates"] == ["matryoshka"]
    text = run("score", table)
    assert "widened because the largest of 2 was picked" in text
    assert "It is the best of them (95 % confidence)" in text


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "nowhere.csv"], "nowhere.csv does not exist"),
        (["score", "TABLE", "--axis", "log"], "axis 'log'"),
        (["score", "TABLE", "--group", "x"], "--group 'x'"),
        (["score", "TABLE", "--group", "x=qlora"], "group x names 'qlora'"),
        (["score", "TABLE", "TABLE"], "appears 2 times"),
        (["score", "TABLE", "--non-inferior", "lora"], "without --to, --margin"),
        (
            ["score", "TABLE", "--non-inferior", "lora", "--to", "matryoshka", "--margin", "0.02",
             "--level", "0.9"],
            "--level with a margin test",
        ),
        (["score", "TABLE", "--margin", "0.1"], "without --to, --non-inferior"),
        (["score", "TABLE", "--equivalent", "x", "--to", "lora", "--margin", ".1"], "adapter 'x'"),
        (["score", "TABLE", "--equivalent", "lora", "--to", "lora", "--margin", ".1"], "itself"),
        (
            ["score", "TABLE", "--equivalent", "lora", "--to", "matryoshka", "--margin", "2"],
            "margin 2",
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


def test_primary_comparisons_are_a_family_and_others_are_labelled(table):
    text = run("score", table, "--primary", "matryoshka,lora")
    assert "Primary comparisons: matryoshka and lora; declared when the file was read." in text
    content = json.loads(run("score", table, "--reference", "lora", "--json"))
    assert content["primary"]["pairs"] == [["lora", "*"]]
    assert {row["exploratory"] for row in content["pairs"]} == {False}
    with pytest.raises(AuracError, match="'nobody'; expected one of lora, matryoshka"):
        run("score", table, "--primary", "lora,nobody")
    with pytest.raises(AuracError, match="--primary 'a'; expected --primary A,B: two names"):
        run("score", table, "--primary", "a")


def test_the_user_says_that_the_seeds_of_a_table_are_paired(tmp_path):
    """Seeds move both adapters alike, which is no part of a difference within each seed."""
    lines = ["adapter,seed,rank,doc_id,score"]
    for seed, level in enumerate((20, 30, 50, 40)):
        for name, more in (("a", 0), ("b", 6 + seed)):
            for rank in (1, 2):
                lines += [f"{name},{seed},{rank},{d},{int(d < level + more)}" for d in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = {}
    for option in ("--independent-seeds", "--paired-seeds", None):
        given = ["score", tmp_path / "t.csv", *([option] if option else [])]
        (found[option],) = json.loads(run(*given, "--json"))["pairs"]
        assert f"Seeds of differences: {found[option]['pairing']}." in run(*given)
    assert found[None] == found["--independent-seeds"]  # a table does not say how it was trained
    assert found[None]["pairing"] == "independent seeds"
    assert found["--paired-seeds"]["pairing"] == "paired by seed"
    assert found["--paired-seeds"]["se"] < 0.5 * found[None]["se"]
    test = ["--non-inferior", "b", "--to", "a", "--margin", "0.02"]
    assert "(paired by seed;" in run("score", tmp_path / "t.csv", "--paired-seeds", *test)
