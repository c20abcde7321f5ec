"""One number wherever it is printed: results.json, the report, `compare` and `score` agree."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner
from support.adapters import save_with_peft

from aurac.analysis.combine import pooled
from aurac.cli import cli
from aurac.curves.display import percent
from aurac.errors import CurveError
from aurac.records.results_file import Results
from aurac.records.run import stored_run
from aurac.show.findings import Findings

TASK = "aurac_word_problems_mc"
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def adapters(tiny_base_folder, tmp_path_factory) -> list[str]:
    """Three adapters of rank 4 with random factors."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
        save_with_peft(base, root / name, seed=seed, r=4, target_modules=["q_proj", "v_proj"])
    return [str(root / name) for name in NAMES]


def compare(adapters, base, out, *more):
    arguments = ["compare", *adapters, "--tasks", TASK, "--base", str(base), "--limit", "60"]
    arguments += ["--method", "lora", "--basis", "prefix,svd", "--out", str(out), *more]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def run(adapters, tiny_base_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return compare(adapters, tiny_base_folder, out), out


def scored(folder, *more):
    done = CliRunner().invoke(cli, ["score", str(folder), "--json", "--details", *more])
    return json.loads(done.stdout)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_results_hold_the_intervals_that_score_prints(run):
    _, folder = run
    rows = {row["adapter"]: row for row in scored(folder)["scores"]}
    assert len(rows) == 6
    methods = set()
    for curve in results_of(folder)["curves"]:
        name = curve["adapter"] if curve["default"] else curve["id"]
        row = rows[name]
        assert curve["score"] == {key: row[key] for key in ("log2", "linear", "mean")}
        assert curve["score_method"] == row["method"]
        assert curve["score_notes"] == row["notes"]
        methods.add(row["method"].split()[0])
    assert "t" not in methods  # about 15 of 60 are right: Student's t would be too short


def test_a_second_adapter_does_not_move_the_first(run, adapters, tiny_base_folder, tmp_path):
    _, folder = run
    compare(adapters[1:2], tiny_base_folder, tmp_path / "alone")
    (alone,) = [c for c in results_of(tmp_path / "alone")["curves"] if c["default"]]
    (among,) = [c for c in results_of(folder)["curves"] if c["default"] and c["adapter"] == "two"]
    assert alone["score"] == among["score"]
    assert alone["accuracy_low"] == among["accuracy_low"]


def test_the_report_adjusts_in_the_family_of_score(run):
    _, folder = run
    content = scored(folder)
    assert len([row for row in content["pairs"] if row["p"] is not None]) == 3
    pairs = {frozenset((row["a"], row["b"])): row for row in content["pairs"]}
    variants = {frozenset((row["a"], row["b"])): row for row in content["variants"]}
    shown = Findings(stored_run(Results.read(folder), folder), 0.02).tested
    assert len(shown) == len(pairs) + len(variants)
    for item in shown:
        row = (pairs | variants)[frozenset((item.a, item.b))]
        sign, estimate = (1 if row["b"] == item.b else -1), item.estimate
        assert item.p_holm == row["p_holm"]
        assert estimate.value == sign * row["difference"]
        ends = sorted((sign * row["low"], sign * row["high"]))
        assert [estimate.low, estimate.high] == ends
        assert item.detectable == row["mde"]


def test_compare_prints_the_p_values_of_score(run):
    text, folder = run
    for row in scored(folder)["pairs"]:
        names = [row["b"], row["a"]] if row["difference"] >= 0 else [row["a"], row["b"]]
        pair = " − ".join(f"{name} (prefix)" for name in names)  # the larger AURAC first
        [line] = [x for x in text.splitlines() if x.startswith(f"{pair} ")]
        assert f" {percent(abs(row['difference']))} [" in line
        p = row["p_holm"]
        assert ("< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")) in line


def test_what_compare_was_told_to_group_is_one_arm_everywhere(adapters, tiny_base_folder, tmp_path):
    more = ("--group", "pair=one,three", "--primary", "pair,two")
    text = compare(adapters, tiny_base_folder, tmp_path / "run", *more)
    declared = results_of(tmp_path / "run")["primary"]
    assert declared == {"pairs": [["pair", "two"]], "declared": "before the run had outcomes"}
    assert "Primary comparisons: pair (prefix) and two (prefix); declared before the run" in text
    assert results_of(tmp_path / "run")["groups"] == {"pair": ["one", "three"]}
    (row,) = scored(tmp_path / "run")["pairs"]
    assert {row["a"], row["b"]} == {"pair", "two"}
    assert f"{row['b']} (prefix) − {row['a']} (prefix) " in text
    run = pooled(stored_run(Results.read(tmp_path / "run"), tmp_path / "run"))
    found = Findings(run, 0.02)
    names = {row.adapter for row in run.curves}
    shown = [pair for pair in found.tested if {pair.a, pair.b} <= names]
    assert [{pair.a, pair.b} for pair in shown] == [{"pair", "two"}]
    assert shown[0].p_holm == row["p_holm"]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Intervals cover documents and training seeds (pair 2)." in report
    # The user's word at reading time comes before what was said when the run was made.
    again = scored(tmp_path / "run", "--group", "other=one,two")["pairs"]
    assert {again[0]["a"], again[0]["b"]} == {"other", "three"}


@pytest.mark.parametrize("said", [("--group", "x=one,nobody"), ("--primary", "one,nobody")])
def test_a_group_or_pair_of_unknown_adapters_is_refused_before_anything_is_computed(
    adapters, tiny_base_folder, tmp_path, said
):
    arguments = ["compare", *adapters, "--tasks", TASK, "--out", str(tmp_path / "run")]
    arguments += ["--base", str(tiny_base_folder), "--method", "lora", *said]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, CurveError)
    assert "'nobody'" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_unequal_grids_are_said_and_the_run_still_ends_well(adapters, tiny_base_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    save_with_peft(base, tmp_path / "wide", seed=9, r=8, target_modules=["q_proj"])
    text = compare([adapters[0], str(tmp_path / "wide")], tiny_base_folder, tmp_path / "run")
    assert "not compared" in text
    assert "the same ranks" in text


def test_holm_with_one_p_value_instead_of_another():
    from aurac.stats.multiplicity import HolmFamily, holm

    draw = random.Random(1)
    for _ in range(200):
        p_values = [draw.choice([None, draw.random() ** 3]) for _ in range(draw.randint(1, 8))]
        family = HolmFamily(p_values)
        for at, known in enumerate(p_values):
            if known is None:
                continue
            other = draw.choice([known, draw.random() ** 3])
            expected = holm([*p_values[:at], other, *p_values[at + 1 :]])[at]
            assert family.instead(at, other) == pytest.approx(expected, rel=1e-12)
