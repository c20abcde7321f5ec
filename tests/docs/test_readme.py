"""The README's numbers are those of the stored runs and of the benchmark's page."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

import pandas as pd
import pytest
from click.testing import CliRunner
from document_blocks import README, REPOSITORY, blocks

from aurac.cli import cli

TEXT = README.read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())
REPORTS = REPOSITORY / "reports"
BENCHMARK = (REPOSITORY / "docs" / "benchmarks-engine.md").read_text(encoding="utf-8")
SPEEDS = {
    "gsm8k, 5-shot": "gsm8k 5-shot stock, bfloat16",
    "`aurac_word_problems`, 0-shot": "aurac_word_problems 0-shot stock, bfloat16",
    "ARC-Easy, 25-shot, the same examples for all questions": "arc_easy 25-shot fixed, bfloat16",
}


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """First cell → the other cells, without bold, of the first table whose head begins so."""
    table = text[text.index(f"| {heading} |") :].partition("\n\n")[0].replace("**", "")
    split = [line.strip("| ").split("|") for line in table.splitlines()[2:]]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in split}


def percent(value: float, towards: str = ROUND_HALF_UP) -> str:
    tenths = (100 * Decimal(repr(float(value)))).quantize(Decimal("0.1"), towards)
    return str(tenths).replace("-", "−")


def interval(row) -> list[str]:
    """Both ends, rounded outwards."""
    return [percent(row.low, ROUND_FLOOR), percent(row.high, ROUND_CEILING)]


def test_the_screen_of_one_adapter_is_what_the_command_prints(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = ["recommend", "reports/lora", "--margin", "0.05"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    [screen] = [block.text for block in blocks(README) if block.text.startswith("rank ")]
    printed = " ".join(done.stdout.split())  # lines are as wide as the terminal
    assert " ".join(screen.split()) in printed


def test_the_table_of_three_adapters_is_that_of_the_stored_run():
    run = REPORTS / "word_problems"
    points, scores = pd.read_csv(run / "points.csv"), pd.read_csv(run / "scores.csv")
    shown = rows(TEXT, "adapter | r=1 | r=2")
    assert list(shown) == list(scores.adapter)  # the largest AURAC first
    for score in scores.itertuples():
        of = points[(points.adapter == score.adapter) & (points["rank"] > 0)]
        area = "{} [{}, {}]".format(percent(score.aurac), *interval(score))
        assert shown[score.adapter] == [*map(percent, of.accuracy), area]


@pytest.mark.parametrize(
    ("run", "task", "pair", "said"),
    [
        ("word_problems", "aurac_word_problems", ("lora", "dylora"), "{} points [{}, {}]"),
        ("word_problems", "aurac_word_problems", ("lora", "matryoshka"), "{} points [{}, {}]"),
        ("study", "mean over tasks", ("LoRA", "MatryoshkaLoRA"), "{} points of AURAC [{}, {}]"),
        ("study", "mean over tasks", ("LoRA", "DyLoRA"), "{} [{}, {}] more than DyLoRA"),
    ],
)
def test_the_differences_are_those_of_the_stored_pairs(run, task, pair, said):
    known = pd.read_csv(REPORTS / run / "pairs.csv").set_index(["task", "a", "b"])
    row = known.loc[(task, *pair)]
    assert said.format(percent(row.difference), *interval(row)) in WORDS


@pytest.mark.parametrize("task", SPEEDS)
def test_the_speeds_and_the_agreement_are_those_of_the_benchmark(task):
    times, agreement = rows(TEXT, "task | times as fast")[task]
    measured = rows(BENCHMARK, "work | documents x ranks")[SPEEDS[task]]
    assert f"{times} x" == measured[3]
    said = measured[4]
    if texts := re.fullmatch(r"(\d+)/(\d+) texts", said):
        assert agreement == f"{texts[1]} of {texts[2]} texts"
    elif picks := re.search(r"(\d+)/(\d+) picks differ", said):
        assert agreement == f"{int(picks[2]) - int(picks[1])} of {picks[2]} choices"
    else:
        within = float(said.removeprefix("log-likelihoods within "))
        assert agreement == f"log-likelihoods within {within:.2f}"


def test_the_readme_and_the_first_page_are_short():
    assert len(TEXT.split()) <= 650
    page = (REPOSITORY / "docs" / "your-adapter.md").read_text(encoding="utf-8")
    assert len(page.split()) <= 350
