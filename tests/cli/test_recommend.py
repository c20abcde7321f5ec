"""`aurac recommend` as a user meets it: what to ship, and a gate for CI."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from report_runs import zoo_run
from score_tables import outcomes_table, run

import aurac
from aurac.cli import cli
from aurac.errors import AuracError, UsageError

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return outcomes_table(tmp_path_factory.mktemp("recommend"))


def test_what_to_ship_comes_first(table):
    text = run("recommend", table, "--delta", "0.1")
    assert text.startswith(
        "Ship matryoshka at rank 2 on gsm8k: accuracy 67.3 %. It is shown to be within 10 points "
        "of the best (95 % confidence, conditional on these checkpoints), and no smaller one is. "
        "The most accurate is matryoshka at rank 4, 70.3 %.\n"
    )
    assert "use rank" not in text
    assert "documents that change" not in text
    details = run("recommend", table, "--margin", "0.1", "--details")
    assert ["lora", "2", "of", "8", "53.0"] in [row.split()[:5] for row in details.splitlines()]
    assert "lora on gsm8k: Use rank 2: accuracy 53.0 %. It is shown to be within 10" in details
    assert "documents that change" in details
    assert "MOVER of gains and losses, independent documents" in details


def test_json_holds_fractions_and_what_to_ship(table):
    content = json.loads(run("recommend", table, "--delta", "0.1", "--json"))
    assert [*content] == ["schema", "ship", "choices", "recommended"]
    assert content["schema"] == 1
    assert content["recommended"][0]["rank"] < 8
    (ship,), (choice,) = content["ship"], content["choices"]
    assert (ship["adapter"], ship["rank"], ship["alpha"]) == ("matryoshka", 2, 0.05)
    assert ship["accuracy"] == choice["chosen"]["accuracy"] == pytest.approx(202 / 300)
    assert (choice["best"]["rank"], choice["best"]["accuracy"]) == (4, pytest.approx(211 / 300))
    assert ship["needed"] < 0.1
    strict = json.loads(run("recommend", table, "--delta", "0.0001", "--json", "--details"))
    assert strict["recommended"][0]["rank"] is None
    assert strict["recommended"][0]["smallest_margin"] > 0.0001
    assert strict["ship"][0]["adapter"] is None
    assert strict["ship"][0]["sentence"].startswith("No configuration is shown to be within 0.01")


def test_without_a_margin_the_trade_off_is_shown_and_nothing_recommended(table):
    text = run("recommend", table)
    assert text.startswith(
        "No margin was given, so no configuration is recommended on gsm8k; the most accurate here "
        "is matryoshka at rank 4, 70.3 %."
    )
    rows = [row.split() for row in text.splitlines() if row.startswith("matryoshka at rank")]
    assert [row[3] for row in rows] == ["1", "2", "4"]  # rank 8 is less accurate than rank 4
    content = json.loads(run("recommend", table, "--json"))
    assert (content["recommended"], content["ship"][0]["rank"]) == ([], None)
    frontier = content["choices"][0]["frontier"]
    for one, row in zip(frontier, rows, strict=True):  # each is named from its margin on
        typed = f"{float(row[-1]) / 100:.4f}"
        assert 0 < float(typed) - one["needed"] <= 1.0001e-4
        ship = json.loads(run("recommend", table, "--margin", typed, "--json"))["ship"][0]
        assert (ship["adapter"], ship["rank"]) == (one["adapter"], one["rank"])
        above, below = (
            json.loads(run("recommend", table, "--margin", one["needed"] + by, "--json"))["ship"][0]
            for by in (1e-9, -1e-9)
        )
        assert (above["adapter"], above["rank"]) == (one["adapter"], one["rank"])
        assert below["rank"] is None or below["rank"] > one["rank"]


def test_a_margin_that_a_sentence_names_is_enough(table):
    text = run("recommend", table, "--margin", "0.0001")
    needed = re.search(r"It takes a margin of ([\d.]+) points\.", text)[1]
    assert run("recommend", table, "--margin", f"{float(needed) / 100:.4f}").startswith("Ship ")


def test_what_is_not_above_the_base_with_the_others_says_so(tmp_path):
    """By itself lora is shown to be at rank 1, not with the other configurations."""
    folder = zoo_run(tmp_path, n=16, seed=16, ranks=(1, 2, 4)).write()
    text = run("recommend", folder, "--margin", "0.95")
    assert "Ship lora at rank 2" in text
    assert "and no smaller one is shown to be both that and above the base." in text
    (row,) = [line.split() for line in text.splitlines() if "none is enough  " in line]
    assert row[-1] == "yes"
    assert "None is enough: not shown to be above the base, all tested together." in text
    assert "above the base: each row by itself" in text
    assert "accuracy [95 %, all rows together]" in text


@pytest.mark.parametrize(
    ("reference", "lora"), [("8", 2), ("lora", 2), ("lora@8", 2), ("matryoshka@1", None)]
)
def test_a_reference_may_be_a_rank_an_adapter_or_a_configuration(table, reference, lora):
    content = json.loads(
        run("recommend", table, "--margin", "0.1", "--reference", reference, "--json")
    )
    assert content["recommended"][0]["rank"] == lora
    assert content["ship"][0]["adapter"] == "matryoshka"


def test_a_run_knows_size_and_speed(tmp_path):
    folder = zoo_run(tmp_path, n=60).write()
    (ship,) = json.loads(run("recommend", folder, "--margin", "0.5", "--json"))["ship"]
    assert ship["bytes"] > 0
    assert ship["seconds_per_document"] > 0
    text = run("recommend", folder, "--margin", "0.5")
    assert text.startswith(f"Ship {ship['adapter']} at rank {ship['rank']} on word_problems: ")
    assert "The most accurate is matryoshka (with P) at rank 16, " in text
    assert ship["command"] in text.splitlines()
    words = shlex.split(ship["command"])
    cli.get_command(None, words[1]).make_context(words[1], words[2:])  # it can be typed
    basis, _ = ship["truncation"].split(" · ")
    words = f"--rank {ship['rank']} --basis {basis}"
    assert ship["command"].startswith(f"aurac truncate adapters/{ship['adapter']} {words}")
    details = run("recommend", folder, "--margin", "0.5", "--details")
    assert "a document" not in details
    assert (
        f"vLLM serves it with --max-lora-rank {ship['rank'] if ship['rank'] == 1 else 8}."
        in text.splitlines()
    )
    for name in ("lora", "matryoshka (with P)", "matryoshka (without P)"):
        assert any(line.startswith(f"{name}  ") for line in details.splitlines())


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
    assert ("judged by itself" in text) == (code == 0)
    content = json.loads(run(*given, "--json", code=code))
    assert content["shown"] is (code == 0)
    assert bool(content["failed"]) is (code == 4)
    head = "Without the gate:"
    if asked == ["--min-accuracy", "0.55"]:  # matryoshka is recommended, at this rank
        head = "The recommended configuration passes (--adapter matryoshka tests it alone):"
    assert (head in text.splitlines()) == (code == 4)
    assert ("or a smaller one" in text.splitlines()[0]) == (rank > 1)
    for row in content["failed"]:
        assert f"{row['adapter']} on {row['task']} ({row['why']})" in text.splitlines()[0]
        said = "it takes a margin of" if "--margin" in asked else "not shown to be at least"
        assert said in row["why"] or ("not shown" in row["why"]) == ("--min-accuracy" in asked)
        assert text.startswith(f"Gate not passed: n{row['reason'][1:]}: ")


def test_a_gate_may_test_one_adapter(tmp_path):
    folder = zoo_run(tmp_path, n=60).write()
    given = ["recommend", folder, "--margin", "0.5", "--require-rank", 16]
    assert "Each was judged by itself" in run(*given).splitlines()[0]
    for name, printed in {
        "lora": "lora",
        "matryoshka": "matryoshka (with P)",
        "matryoshka (without P)": "matryoshka (without P)",
        "matryoshka · prefix · rule": "matryoshka (without P)",
    }.items():
        text = run(*given, "--adapter", name)
        assert text.startswith(f"{printed} on word_problems may be shipped at rank 16 or")
        assert f"\n\nShip {printed} at rank" in text
        assert "of the best rank (95 %" in text
        content = json.loads(run(*given, "--adapter", name, "--json"))
        assert len(content["recommended"]) == len(content["ship"]) == 1
        assert content["ship"][0]["adapter"] == printed.partition(" ")[0]
        assert content["ship"][0]["rank"] == content["recommended"][0]["rank"]
        judged = f"{name} is judged as {printed}, its default truncation here; --adapter "
        assert (judged + '"matryoshka (without P)" for the other' in text) == (name == "matryoshka")
        assert ("is judged as" in text) == (name == "matryoshka")
    details = run(*given, "--adapter", "lora", "--details")
    assert "matryoshka (without P) − " not in details
    tight = run("recommend", folder, "--margin", "0.0001", "--adapter", "lora", "--details")
    (row,) = [line for line in tight.splitlines() if line.startswith("lora  ")]
    assert "none shown" in row
    against = run(*given, "--adapter", "lora", "--reference", "matryoshka (with P)@1")
    assert "within 50 points of matryoshka (with P) at rank 1 (" in against


def test_the_sentence_names_the_condition_that_binds(tmp_path):
    """The margin stops no rank, the minimum does."""
    lines = ["adapter,task,rank,doc_id,score"]
    for rank, wrong in ((1, 60), (8, 40)):
        lines += [f"x,t,{rank},{i},{int(i >= wrong)}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    text = run("recommend", tmp_path / "t.csv", "--margin", "0.2", "--min-accuracy", "0.72")
    assert text.startswith("Ship x at rank 8 on t")
    assert "within 20 points of the best rank and at least 72 % accurate" in text
    assert ", and no smaller rank is both." in text


def test_results_stand_for_their_run_and_a_reference_has_the_name_of_tables():
    given = ["--margin", "0.15", "--reference", "lora@16"]
    text = run("recommend", REPORTS / "word_problems", *given)
    assert run("recommend", REPORTS / "word_problems/results.json", *given) == text
    assert "\naurac truncate " in text
    assert "within 15 points of lora (SVD) at rank 16 (95 % confidence" in text
    assert "rows that no smaller one matches in accuracy and margin\n" in text  # rank 4 has more
    assert "no smaller one matches\n" in run("recommend", REPORTS / "word_problems")


def test_a_lower_bound_is_rounded_down_and_a_minimum_is_said_as_given():
    """lora (SVD) at rank 4 is shown to have 39.9 to 40.0 %: not 40 %."""
    given = ["recommend", REPORTS / "word_problems", "--margin", "0.15", "--adapter", "lora"]
    text = run(*given, "--min-accuracy", "0.4", "--details")
    (row,) = [line for line in text.splitlines() if line.startswith("lora (SVD) at rank 4")]
    assert " 39.9 " in row
    assert " 40.0 " not in row
    (head,) = [line for line in text.splitlines() if line.startswith("rank  loss")]
    assert "passes" in head
    assert "within margin" not in head
    exact = run(*given, "--min-accuracy", "0.3995")
    assert "at least 39.95 % accurate" in exact


def test_the_most_accurate_of_one_curve_is_not_said_to_beat_the_reference():
    """The reference, another adapter's rank 16, has 53.0 %; lora has 52.0 % at most."""
    given = ["--margin", "0.15", "--adapter", "lora", "--reference", "matryoshka@16"]
    text = " ".join(run("recommend", REPORTS / "word_problems", *given).split())
    assert "It is the most accurate of its ranks." in text


def test_details_are_about_ranks():
    text = run("recommend", REPORTS / "word_problems", "--margin", "0.15", "--details")
    assert "AURAC" not in text
    assert len(text.splitlines()) <= 110
    assert text.count("ranks are tested from the largest down") == 1
    rows = [line.split() for line in text.splitlines() if line.startswith("matryoshka (with P) at")]
    head = next(line for line in text.splitlines() if line.startswith("rank  loss"))
    assert head.split()[-3:] == ["needed", "by", "itself"]
    assert rows


def test_few_seeds_are_the_reason_that_no_margin_is_enough():
    text = run("recommend", REPORTS / "study/results/word_problems", "--margin", "0.2")
    assert "None is enough from 5 seeds; it takes 18." in text
    assert "above the base: each row by itself" in text
    assert "not shown to be above the base" not in text


def test_a_recipe_of_several_checkpoints_leaves_the_choice_to_the_user():
    given = ["recommend", REPORTS / "study/results/word_problems", "--min-accuracy", "0.4"]
    text = run(*given)
    line = (
        "lora is 5 checkpoints (seeds 42, 43, 44, 45, 46): choose one, such as `aurac truncate "
        "adapters/word_problems/lora-lr0.008-seed42 --rank 2 --basis svd --out lora_r2`. vLLM"
    )
    assert text.splitlines()[1].startswith(line)
    (ship,) = json.loads(run(*given, "--json"))["ship"]
    assert (ship["adapter"], ship["command"]) == ("lora", None)


def test_an_accuracy_that_no_rank_is_shown_to_have(table):
    text = run("recommend", table, "--min-accuracy", "0.9", "--details")
    assert not re.search(
        "within margin|needed by itself|margin needed|none is enough", text.split("In points")[0]
    )
    assert "within margin" not in text
    assert text.startswith("No configuration is shown to be at least 90 % accurate on gsm8k; the")
    assert "lora on gsm8k: No rank is shown to be at least 90 % accurate; the most" in text
    content = json.loads(run("recommend", table, "--min-accuracy", "0.9", "--json"))
    assert [row["rank"] for row in content["recommended"]] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", "2"], "margin 2"),
        (["--margin", "0.1", "--reference", "3"], "reference rank 3"),
        (["--margin", "0.1", "--reference", "lora@3"], "reference 'lora@3'; expected lora@ one of"),
        (["--margin", "0.1", "--reference", "x"], "reference 'x'"),
        (["--min-accuracy", "45"], "--min-accuracy 45.0; expected a fraction"),
        (["--require-rank", "8"], "nothing to recommend by"),
        (
            ["--margin", "0.1", "--require-rank", "64"],
            "--require-rank 64; expected from 1 to 8: the ranks are 1, 2, 4, 8",
        ),
        (["--margin", "0.1", "--adapter", "x"], "adapter 'x'; expected one of lora, matryoshka"),
        (
            ["--margin", "0.1", "--adapter", "lora", "--adapter", "x", "--require-rank", "2"],
            "--adapter 'lora' --adapter 'x'; expected one adapter",
        ),
    ],
)
def test_bad_requests_say_one_line(table, arguments, words):
    result = CliRunner().invoke(cli, ["recommend", str(table), *arguments])
    assert isinstance(result.exception, AuracError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_task_of_a_study_has_the_p_values_of_the_study():
    folder = REPORTS / "study/results/mawps"
    text = run("recommend", folder, "--margin", "0.1", "--details")
    [line] = [line for line in text.splitlines() if line.startswith("lora (SVD) − lora (prefix)  ")]
    with (folder.parents[1] / "comparisons.csv").open(encoding="utf-8") as stream:
        [p] = [
            float(row["p_holm"])
            for row in csv.DictReader(stream)
            if (row["study"], row["task"]) == ("study", "mawps")
            and (row["b"], row["a"]) == ("LoRA (SVD)", "LoRA (prefix)")
        ]
    assert f" {p:.3f} ".replace("0.", ".") in line


def test_a_reference_rank_leaves_out_larger_ranks_and_says_so():
    text = run("recommend", REPORTS / "word_problems", "--margin", "0.15", "--reference", "8")
    assert "within 15 points of the best at rank 8 (95 %" in text
    assert "The most accurate up to rank 8 is lora (SVD) at rank 4, 52.0 %." in text
    assert "--details: all 20 configurations up to rank 8, " in text


def test_a_gate_says_what_was_tested():
    given = ["recommend", REPORTS / "word_problems", "--margin", "0.2", "--require-rank", "4"]
    how = "(within 20 points of the best rank; default truncations)"
    line = f"Every adapter may be shipped at rank 4 or a smaller one {how}: lora (SVD), dylora, "
    assert run(*given).startswith(line)


def test_a_margin_column_without_a_number_is_left_out():
    given = ["--margin", "0.15", "--min-accuracy", "0.45"]
    text = run("recommend", REPORTS / "word_problems", *given)
    assert text.count("above the base and at least 45 % accurate") == 1
    assert "margin needed" not in text


def test_why_rows_need_a_margin_is_said_below_them():
    given = ["recommend", REPORTS / "word_problems"]
    assert "points lost against the true best, rounded up" in run(*given)
    assert "; equal ones of an adapter: a rank waits" in run(*given, "--details")
    one = run(*given, "--adapter", "lora", "--margin", "0.07")
    assert "It is the most accurate here.\n" in one


def test_digits_are_a_rank_in_python_as_well():
    done = aurac.load_run(REPORTS / "word_problems")
    asked, typed = (done.recommend(0.15, reference=each) for each in (8, "8"))
    assert typed.equals(asked)


def test_an_accuracy_alone_says_nothing_of_margins():
    given = [REPORTS / "word_problems", "--min-accuracy", "0.4"]
    shipped = json.loads(run("recommend", *given, "--json"))["ship"][0]
    assert (shipped["adapter"], shipped["rank"]) == ("matryoshka", 16)
    assert shipped["needed"] is shipped["checkpoints"] is None
    assert "margin" not in run("recommend", *given)


def test_details_say_what_a_declared_reference_is():
    given = ["--margin", ".2", "--reference", "lora@4", "--details"]
    text = " ".join(run("recommend", REPORTS / "word_problems", *given).split())
    assert "Each adapter by itself, against lora (SVD) at rank 4:" in text
    assert "a rank passes, against lora (SVD) at rank 4 Ranks are tested from the largest" in text
    assert "One that is held up" not in text


def test_what_to_ship_needs_no_equal_ranks(tmp_path):
    """What is shipped has a rank, not an area."""
    rows = [
        f"{adapter},t,{rank},{doc},{int(doc % 10 < best)}"
        for adapter, ranks, best in (("x", (1, 2), 3), ("y", (1, 2, 4), 9))
        for rank in ranks
        for doc in range(100)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["adapter,task,rank,doc_id,score", *rows]))
    assert run("recommend", path, "--margin", "0.1").startswith("Ship y at rank 1 on t")
    assert "--support common of `aurac score` takes those they share" in run("score", path)
    named = run("recommend", path, "--margin", "0.9", "--reference", "x@2")
    assert "within 90 points of x at rank 2" in named  # a table has no truncations
    path.write_text("\n".join(["adapter,task,rank,doc_id,score", *rows[:200], *rows[300:]]))
    assert "--support" not in run("score", path)  # one rank has no area


def test_an_accuracy_is_shown_of_one_rank_alone(tmp_path):
    """There is nothing to lose against, and nothing is asked of an area."""
    path = tmp_path / "t.csv"
    rows = [f"x,8,{doc},{int(doc % 10 < 6)}" for doc in range(200)]
    path.write_text("\n".join(["adapter,rank,doc_id,score", *rows]))
    text = run("recommend", path, "--min-accuracy", "0.4", "--require-rank", "8")
    assert text.startswith("x may be shipped at rank 8 (at least 40 % accurate).")
    assert "Ship x at rank 8: accuracy 60.0 %." in text
    alone = run("recommend", path, "--margin", "0.1", "--require-rank", "8")
    assert alone.startswith("x may be shipped at rank 8 (within 10 points of the best rank).")
    assert "It is the only configuration here.\n" in alone
    assert "\nRank against accuracy" in alone  # no sizes are known
    more = [f"y,{rank},{doc},{int(doc % 10 < 7)}" for rank in (16, 32) for doc in range(200)]
    path.write_text("\n".join(["adapter,rank,doc_id,score", *rows, *more]))
    words = ["recommend", str(path), "--min-accuracy", "0.4", "--require-rank", "8"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.return_value == 4
    assert "y (it has no rank of 8 or smaller). x passed" in done.output
    done = CliRunner().invoke(cli, ["recommend", str(path), "--reference", "32"])
    assert "y@32 is a reference for all" in str(done.exception)


def test_of_unequal_sizes_the_smaller_adapter_is_shipped(tmp_path):
    """At one rank b has twice the parameters of a, and is more accurate."""
    path = tmp_path / "t.csv"
    rows = [
        f"{name},{rank},{doc},{int(doc % 100 < right)},{rank * size}"
        for name, size, right in (("a", 1, 61), ("b", 2, 65))
        for rank in (2, 4)
        for doc in range(200)
    ]
    path.write_text("\n".join(["adapter,rank,doc_id,score,parameters", *rows]))
    assert run("recommend", path, "--margin", "0.3").startswith("Ship a at rank 2: ")


def test_the_pointer_of_a_gate_is_to_what_is_recommended(tmp_path):
    """Of two tasks, each with an adapter of its own, no single one is tested."""
    path = tmp_path / "t.csv"
    rows = [
        f"{name},{task},{rank},{doc},{int(doc % 100 < right)}"
        for name, task, right in (("a", "t", 90), ("a", "u", 20), ("b", "t", 20), ("b", "u", 90))
        for rank in (2, 4)
        for doc in range(100)
    ]
    path.write_text("\n".join(["adapter,task,rank,doc_id,score", *rows]))
    asked = ["recommend", path, "--min-accuracy", "0.6", "--require-rank", "2"]
    text = run(*asked, code=4)
    assert "\nThe recommended configurations pass:\nShip a at rank 2 on t" in text
    one = run(*asked, "--adapter", "a", code=4)
    assert "a on t passed, each tested by itself.\n" in one
    assert "--adapter NAME" not in one


def test_a_reference_is_within_any_margin_of_itself():
    """Also below a rank that is shown to be worse."""
    given = ["recommend", REPORTS / "word_problems", "--margin", ".1", "--reference", "lora@4"]
    text = run(*given, "--adapter", "lora", "--require-rank", "4")
    assert "\nShip lora (SVD) at rank 4 on aurac_word_problems: " in text
    assert run(*given).startswith("Ship lora (SVD) at rank 4 on aurac_word_problems: ")


def test_nothing_passes_where_every_answer_is_scored_0(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{name},{rank},{doc},0" for name in "xy" for rank in (1, 2) for doc in range(30)]
    path.write_text("\n".join(["adapter,rank,doc_id,score", *rows]))
    why = "every answer is scored 0, at every rank: look at the answers"
    text = run("recommend", path, "--margin", "0.5", "--require-rank", "2", code=4)
    assert f"x ({why}), y ({why})" in text
    assert f"\n{why[0].upper()}{why[1:]}.\n" in run("score", path)
    text = run("score", path, "--equivalent", "x", "--to", "y", "--margin", "0.5", code=4)
    assert text.startswith("x is not shown to be equivalent to y: ")
    assert "no interval (every answer of both is scored 0" in text


def test_what_a_gate_tested_is_said_of_each_question(tmp_path):
    path = tmp_path / "t.csv"
    rows = [
        f"{name},{task},{rank},{doc},{int(doc % 10 < 7)}"
        for name in "xy"
        for task in "tu"
        for rank in (1, 2)
        for doc in range(100)
    ]
    path.write_text("\n".join(["adapter,task,rank,doc_id,score", *rows]))
    asked = ["recommend", path, "--require-rank", "2"]
    weak = "a weak adapter passes, too"
    assert weak in run(*asked, "--margin", "0.2")
    assert weak not in run(*asked, "--min-accuracy", "0.2")
    assert weak not in run(*asked, "--margin", "0.2", "--reference", "x@2")
    one = run(*asked, "--margin", "0.2", "--adapter", "y")
    assert one.startswith("y on t and u may be shipped at rank 2 or a smaller one (")
    assert "--adapter NAME" not in one.partition("\n")[0]


def test_accuracies_alone_are_said_to_be_so_of_each(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("adapter,rank,accuracy\na,1,.1\na,2,.2\nb,1,.1\nb,2,.3")
    text = run("recommend", path, "--margin", "0.1")
    said = "Nothing is recommended: nothing can be compared (no per-document outcomes).\nIt takes "
    assert text.startswith(f"{said}the outcomes of documents: ")


def test_of_a_family_the_adapter_of_the_rank_is_named():
    """It is not cut, so there is no command."""
    text = run("recommend", REPORTS / "study/results/word_problems", "--min-accuracy", "0.2")
    assert (
        "lora_per_rank has an adapter for each rank: the one of rank 1 is served as it is." in text
    )


def test_an_accuracy_from_few_seeds_says_what_it_assumes():
    text = run("recommend", REPORTS / "study/results/word_problems", "--min-accuracy", "0.3")
    assert "Tests assume normally distributed seeds." in text
    assert "at least: shown with 95 % confidence" in text
    text = run("recommend", REPORTS / "word_problems", "--min-accuracy", "0.3")
    assert "assume" not in text  # single checkpoints


@pytest.mark.parametrize("wrong", [8.0, True, ["lora"]])
def test_a_reference_of_another_kind_is_refused(wrong):
    read = aurac.load_run(REPORTS / "word_problems")
    with pytest.raises(UsageError, match=r"reference=.+; expected "):
        read.recommend(0.15, reference=wrong)
    with pytest.raises(
        AuracError, match="reference rank 0 of lora; expected one of 1, 2, 4, 8, 16"
    ):
        read.recommend(0.15, reference=0)
    one, other = (read.recommend(0.15, reference=kind(8)) for kind in (int, np.int64))
    assert str(one) == str(other)
