"""The README's numbers are those of the stored run and of the benchmark's page."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_UP, Decimal

import pytest
from click.testing import CliRunner
from document_blocks import PAGES, README, REPOSITORY, aurac_words, lines

from aurac.cli import cli

RUN = REPOSITORY / "reports" / "word_problems"
TEXT = README.read_text(encoding="utf-8")
REPORT = (RUN / "report.md").read_text(encoding="utf-8")
BENCHMARK = (REPOSITORY / "docs" / "benchmarks-engine.md").read_text(encoding="utf-8")
SPEEDS = {
    "gsm8k, 5-shot": "gsm8k 5-shot stock, bfloat16",
    "ARC-Easy, 0-shot": "arc_easy 0-shot stock, bfloat16",
    "`aurac_word_problems`, 0-shot": "aurac_word_problems 0-shot stock, bfloat16",
    "ARC-Easy, 25-shot, the same examples for all questions": "arc_easy 25-shot fixed, bfloat16",
}


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """First cell → the other cells, without bold, of the first table whose head begins so."""
    table = text[text.index(f"| {heading} |") :].partition("\n\n")[0].replace("**", "")
    split = [line.replace("\\", "").strip("| ").split("|") for line in table.splitlines()[2:]]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in split}


def test_the_table_is_that_of_the_stored_report():
    shown = rows(TEXT, "adapter | r = 1")
    accuracies = rows(REPORT, "adapter | base | r = 1")
    areas = rows(REPORT, "adapter | AURAC [95 %]".replace("[", "\\[").replace("]", "\\]"))
    assert list(shown) == list(areas)  # the largest AURAC first
    for name, (*accuracy, area) in shown.items():
        base, *expected = accuracies[name]
        assert (base, accuracy, area) == ("0.0", expected, areas[name][0].removesuffix(" †"))


def test_the_table_of_the_study_is_that_of_its_page():
    page = (REPOSITORY / "reports/study/README.md").read_text(encoding="utf-8")
    bases = re.findall(r"The base model scores (\S+) %, (\S+) % and (\S+) %", page)
    shown = rows(TEXT, "adapter | word problems")
    assert [shown.pop("base model")] == [[f"{float(base):.1f}" for base in bases[0]]]
    table = page[page.index("| method |") :].partition("\n\n")[0]
    means = {}
    for line in table.splitlines()[2:]:
        method, truncation, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        means[method, truncation] = [cell.split()[0] for cell in cells if cell]
    for name, cells in shown.items():
        method, _, truncation = name.rstrip(")").partition(" (")
        assert cells == means[method, truncation or "prefix"]


def test_the_lead_is_that_of_the_stored_pairs():
    lead = r"lead of lora \(SVD\) over matryoshka \(with P\), (\S+) points \((\S+) to (\S+)\)"
    [words] = re.findall(lead, " ".join(TEXT.split()))
    with (RUN / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        [pair] = [
            row
            for row in csv.DictReader(stream)
            if (row["second_adapter"], row["second_basis"]) == ("lora", "svd")
            and (row["first_adapter"], row["first_rescale"]) == ("matryoshka", "trained")
        ]
    expected = [
        str((-100 * Decimal(pair[key])).quantize(Decimal("0.1"), ROUND_HALF_UP))
        for key in ("difference", "high", "low")
    ]
    assert list(words) == expected
    assert float(pair["p_holm"]) < 0.05  # significant, as the sentence says


def test_the_configuration_to_ship_is_that_of_the_command_above_it(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    [line] = [line for line in lines(README) if "recommend reports/" in line]
    [words] = aurac_words(line)
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    quoted = " ".join(line[2:] for line in TEXT.splitlines() if line.startswith("> "))
    assert quoted == done.stdout.splitlines()[0].strip()
    assert quoted.startswith("Ship lora (SVD) at rank 4 ")
    needed = rows(REPORT, "configuration | size")["lora (SVD) at rank 4"][2]
    assert f"it takes a margin of {needed} points" in TEXT


@pytest.mark.parametrize("task", SPEEDS)
def test_the_speeds_and_the_agreement_are_those_of_the_benchmark(task):
    times, agreement = rows(TEXT, "task | times as fast")[task]
    measured = rows(BENCHMARK, "work | documents x ranks")[SPEEDS[task]]
    assert f"{times} x" == measured[3]
    said = measured[5]
    if texts := re.fullmatch(r"(\d+)/(\d+) texts", said):
        assert agreement == f"{texts[1]} of {texts[2]} texts"
    elif picks := re.search(r"(\d+)/(\d+) picks differ", said):
        assert agreement == f"{int(picks[2]) - int(picks[1])} of {picks[2]} choices"
    else:
        within = float(said.removeprefix("log-likelihoods within "))
        assert agreement == f"log-likelihoods within {within:.2f}"


def test_in_float32_all_choices_are_equal():
    measured = rows(BENCHMARK, "work | documents x ranks")["arc_easy 0-shot stock, float32"]
    assert "0/500 picks differ" in measured[5]
    assert "In float32 all 500 choices are equal" in TEXT


def test_the_first_page_is_short_and_every_how_to_has_a_line():
    [first] = [page for page in PAGES if page.name == "your-adapter.md"]
    assert len(first.read_text(encoding="utf-8").split()) <= 300
    index = (REPOSITORY / "docs" / "howto" / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```\{toctree\}(.*?)```", index, re.DOTALL)[1].split()[3:]
    assert set(re.findall(r"^\| \[.+\]\((.+)\.md\) \|", index, re.MULTILINE)) == {
        "../your-adapter",
        *listed,
    }
