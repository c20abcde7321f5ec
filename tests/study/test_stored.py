"""The study in the repository: its report is current, and its table follows from its cells."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rounding import rounded
from scipy.integrate import trapezoid

from aurac.analysis.groups import defaults, gather, together
from aurac.analysis.pairing import paired_areas
from aurac.analysis.sentences import show_p
from aurac.cli import cli
from aurac.curves.display import percent
from aurac.readers import read_curves
from aurac.show.table import as_csv
from aurac.stats.multiplicity import holm
from aurac.stats.spread import spread_of_pilot
from scripts.study_page import COMPARISONS, comparisons, stored_comparisons, with_tables

REPORTS = Path(__file__).parents[2] / "reports"
PAGE = REPORTS / "study/README.md"


@pytest.mark.parametrize("study", ["study", "longer_training"])
def test_the_report_is_made_again_without_weights(study, tmp_path):
    shutil.copytree(REPORTS / study, tmp_path / "study")
    for name in ("report.md", "analysis.json"):
        (tmp_path / "study" / name).unlink()
    command = ["study", str(tmp_path / "study/study.yaml"), "--out", str(tmp_path / "study")]
    done = CliRunner().invoke(cli, [*command, "--report"])
    assert done.exit_code == 0, done.output
    for name in ("report.md", "analysis.json"):
        made, stored = ((at / name).read_text() for at in (tmp_path / "study", REPORTS / study))
        assert rounded(made) == rounded(stored)


TASKS = ("study/results/word_problems", "study/results/mawps", "study/results/arc_easy")


@pytest.mark.parametrize("folder", [*TASKS, "word_problems"])
def test_the_first_screen_says_what_no_test_shows_and_what_depends_on_the_truncation(folder):
    analysis = json.loads((REPORTS / folder / "analysis.json").read_text())
    page = (REPORTS / folder / "report.md").read_text(encoding="utf-8")
    screen = page[: page.index("\n- Best AURAC")]
    (best,) = analysis["best"]
    # Left out of the candidates although no pair has it as the worse one.
    pairs = [*analysis["pairs"], *analysis["variants"]]
    worse = {row["a" if row["verdict"] > 0 else "b"] for row in pairs if row["verdict"]}
    adapters = {
        row["label"]: f"{row['adapter']} · {row['truncation']}" for row in analysis["scores"]
    }
    left = adapters.keys() - {*best["candidates"]}
    bounded = {name for name in left if not worse & {name, adapters[name]}}
    assert bounded == {*best["bounded"]}
    assert ("A bound for this task alone" in screen) == bool(bounded)
    assert len(bounded) == {TASKS[0]: 1, TASKS[1]: 2}.get(folder, 0)
    for row in (row for row in pairs if row["exploratory"] is False):
        signs = [test["verdict"] for test in row["truncations"].values()]
        other = Counter(sign for sign in signs if sign != row["verdict"])
        said = f"It depends on the truncation: of {len(signs) - 1} others, "
        assert (said in screen) == bool(other)
        assert re.findall(r"is better under (\d)", screen) == [
            str(other[sign]) for sign in (1, -1) if other[sign]
        ]


def test_what_a_report_leaves_out_or_fits_is_said():
    folder = REPORTS / "longer_training/results/word_problems"
    analysis = json.loads((folder / "analysis.json").read_text())
    page = (folder / "report.md").read_text(encoding="utf-8").replace("\\", "")
    gaps = {row["svd"]: row["gaps"]["16"]["value"] for row in analysis["closely"]["bases"]}
    assert gaps["lora_long · svd · fit"] != gaps["lora_long · svd · keep"]  # at the trained rank
    assert "At the trained rank both are the same function where no scale is fitted" in page
    left = len(analysis["scores"]) - len(analysis["closely"]["tests"])
    assert f"Not shown: {left} more curves." in page
    assert re.search(r"Not drawn: [^\n]*LoRA 120 steps \(SVD\) 53\.9; ", page)


@pytest.mark.parametrize("folder", [*TASKS, "word_problems"])
def test_intervals_that_few_documents_decide_are_marked_in_a_report(folder):
    analysis = json.loads((REPORTS / folder / "analysis.json").read_text())
    page = (REPORTS / folder / "report.md").read_text(encoding="utf-8").replace("\\", "")
    for rows, ways in (("scores", ("logit", "near 0")), ("pairs", ("MOVER",))):
        for row in analysis[rows]:
            estimate = row["log2" if rows == "scores" else "estimate"]
            few = any(way in estimate["method"] for way in ways)
            ends = (percent(estimate[end]) for end in ("value", "low", "high"))
            text = "{} [{}, {}]".format(*ends)
            assert re.search(rf"\| (\*\*)?{re.escape(text)}{' †' * few}(\*\*)? \|", page), text
    marked = re.search(r"\] †(\*\*)? \|", page)
    assert ("†: few documents decide" in page) == bool(marked)


METHODS = {
    "LoRA": "lora",
    "DyLoRA": "dylora",
    "MatryoshkaLoRA": "matryoshka",
    "DyLoRA 360 steps": "dylora_long",
    "LoRA at each rank": "lora_per_rank",
    "nested losses": "nested_loss",
    "nested losses 60 steps": "nested_loss_half",
}
FEW = {"lora_per_rank", "nested_loss", "nested_loss_half"}  # three seeds
TRUNCATIONS = {
    "prefix": ("prefix", "rule"),
    "with P": ("prefix", "trained"),
    "without P": ("prefix", "rule"),
    "prefix, fitted": ("prefix", "fit"),
    "SVD": ("svd", "keep"),
    "–": ("prefix", "rule"),  # each adapter as it was trained
}
# The page's tables of areas: the start of the heading, the folders of the columns, and what is
# added to the names of the methods in each.
TABLES = [
    (
        "| method | truncation | word problems",
        ("study/results/word_problems", "study/results/mawps", "study/results/arc_easy"),
        ("", "", ""),
    ),
    (
        "| method | truncation | 120 steps",
        ("longer_training/results/word_problems",) * 2,
        ("", "_long"),
    ),
]


def shown(text, heading, folders, endings):
    """(folder, method, basis, rescale) → AURAC in percent, as a table of the page has it."""
    lines = text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]
    areas = {}
    for line in lines:
        method, truncation, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for folder, ending, cell in zip(folders, endings, cells, strict=True):
            if cell:
                key = (folder, METHODS[method] + ending, *TRUNCATIONS[truncation])
                areas[key] = float(cell.split()[0])
    return areas


def counted(folder):
    """(folder, method, basis, rescale) → accuracy in percent of each curve at each rank."""
    results = json.loads((REPORTS / folder / "results.json").read_text())
    metric = results["tasks"][0]["metric"]
    accuracy = defaultdict(list)
    with tarfile.open(REPORTS / folder / "cells.tar.xz") as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    for curve in results["curves"]:
        means = []
        for rank in curve["ranks"]:
            lines = files[curve["cells"][str(rank)]].splitlines()
            blocks = [line["content"] for line in map(json.loads, lines) if line["kind"] == "block"]
            outcomes = [x for block in blocks for x in block["metrics"][metric]]
            means.append(100 * np.mean(outcomes[: curve["n_docs"]]))
        method = next(m for m, group in results["groups"].items() if curve["adapter"] in group)
        accuracy[folder, method, curve["basis"], curve["rescale"]].append(means)
    return accuracy


@pytest.mark.parametrize(("heading", "folders", "endings"), TABLES)
def test_the_page_has_the_means_of_the_cells(heading, folders, endings):
    """Counted from the cells' lines alone."""
    page = shown(PAGE.read_text(encoding="utf-8"), heading, folders, endings)
    expected = {key: np.array(c) for each in set(folders) for key, c in counted(each).items()}
    assert page.keys() <= expected.keys()
    if "120 steps" not in heading:  # where some truncations are left to the report
        assert page.keys() == expected.keys()
    for key, area in page.items():
        folder, method, *_ = key
        few = method in FEW or (folder, method) == ("study/results/arc_easy", "dylora_long")
        seeds = 3 if few else 5
        assert expected[key].shape == (seeds, 5), key
        # Ranks 1 to 16 are 4 doublings.
        assert abs(area - trapezoid(expected[key].mean(axis=0)) / 4) <= 0.05 + 1e-9, key


def test_the_comparisons_are_those_of_the_studies():
    made = as_csv(comparisons()).decode()
    assert rounded(made) == rounded(COMPARISONS.read_text(encoding="utf-8"))


def test_the_tables_of_the_page_are_those_of_the_analyses():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page


def test_the_learning_rates_of_the_page_are_those_that_the_search_chose():
    report = (REPORTS / "study/report.md").read_text(encoding="utf-8").replace("\\", "")
    rows = re.findall(r"^\| (\w+) \| (\w+) \| [^|]*\([^|]*\) \| (0\.\d+)", report, re.MULTILINE)
    chosen = {(task, method): f"{float(rate) * 1000:g}e-3" for task, method, rate in rows}
    methods = ("LoRA", "MatryoshkaLoRA", "DyLoRA")
    words, others = (
        {tuple(chosen[task, method] for method in methods) for task in tasks}
        for tasks in (["word_problems"], ["mawps", "arc_easy"])
    )
    said = re.search(
        r"Chosen: (\S+) for all three methods on the word problems; on the others LoRA and "
        r"MatryoshkaLoRA (\S+), DyLoRA (\S+)\.",
        " ".join(PAGE.read_text(encoding="utf-8").split()),
    )
    assert (words, others) == ({(said[1],) * 3}, {(said[2], said[2], said[3])})


QUOTING = (PAGE, *(REPORTS.parent / name for name in ("README.md", "adapters_zoo/README.md")))


def prose(page):
    """A page without its tables, in one line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return " ".join(line.strip() for line in lines if not line.startswith("|"))


def turned(value, low, high):
    """The difference the other way round: 9.8 [7.0, 12.5] for −9.8 [−12.5, −7.0]."""
    value, low, high = (x[1:] if x.startswith("−") else f"−{x}" for x in (value, low, high))
    return value, high, low


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.parent.name)
def test_numbers_with_an_interval_are_those_of_the_reports_and_tables(page):
    sources = [PAGE, *(REPORTS / s / "report.md" for s in ("study", "longer_training"))]
    known = "\n".join(source.read_text(encoding="utf-8") for source in sources).replace("\\", "")
    rows = "\n".join(line for line in known.splitlines() if line.startswith("|"))
    number = r"(−?\d+\.\d)"
    between = rf"(?: points| %)?(?: of AURAC)? \[{number}, {number}\]"
    quoted = re.findall(number + between, prose(page))
    assert len(quoted) > 5
    for quote in quoted:
        written = [f"{value} [{low}, {high}]" for value, low, high in (quote, turned(*quote))]
        assert any(text in rows for text in written), quote


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.parent.name)
def test_p_values_are_those_of_the_analyses(page):
    """Before and after Holm's adjustment, also in one family of what both studies explore."""
    analyses = [
        json.loads((REPORTS / study / "analysis.json").read_text())
        for study in ("study", "longer_training")
    ]
    pairs = [row for a in analyses for key in ("pairs", "variants") for row in a[key]]
    tested = [row for row in pairs if row["p"] is not None]
    explored = [row for row in tested if row.get("exploratory") is not False]
    assert (len(tested), len(explored)) == (62, 59)  # the study declared one pair on three tasks
    with (REPORTS / "word_problems/pairs.csv").open(encoding="utf-8", newline="") as stream:
        values = [float(row["p_holm"]) for row in csv.DictReader(stream)]
    values += [row[key] for row in tested for key in ("p", "p_holm")]
    ways = [way["p_holm"] for row in tested for way in row.get("truncations", {}).values()]
    values += [p for p in ways if p is not None]
    after = [row for row in stored_comparisons() if row["family"] == "afterwards"]
    values += [float(row[name]) for row in after for name in ("p", "p_holm")]
    values += [float(row["p_with_afterwards"] or 1) for row in stored_comparisons()]
    known = {show_p(p) for p in (*values, *holm([row["p"] for row in explored]))}
    assert set(re.findall(r"p ([=<] \.\d{3})", prose(page))) <= known


def test_an_answer_without_a_primary_comparison_names_the_pairs_with_paired_seeds():
    folder = REPORTS / "longer_training"
    pairs = json.loads((folder / "analysis.json").read_text())["pairs"]
    paired = [row for row in pairs if row["pairing"] == "paired by seed"]
    found = sum(row["p_holm"] < 0.05 for row in paired)
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    named = {
        line.split(",")[0]: line.count(" − ") for line in lines if "in points of AURAC:" in line
    }
    assert named == {"- **Significant": found, "- **Not significant": len(paired) - found}
    assert 0 < found < len(paired) < len(pairs)


def test_the_share_of_the_variance_that_changes_with_the_seed_is_that_of_the_study():
    """What claims.md says of it: over documents, of a pair of checkpoints of two methods."""
    shares: dict[bool, list[float]] = {True: [], False: []}
    for folder in sorted((REPORTS / "study/results").iterdir()):
        read = read_curves(folder)
        methods, others = defaults(gather(read.curves, read.groups))
        (svd,) = (row for row in others if row.way == ("lora", "svd · keep"))
        pairs = [*itertools.combinations(methods, 2)]
        pairs += [(svd, row) for row in methods if row.name != "lora"]
        for pair in pairs:
            rows = paired_areas(*together(pair), "log2")
            pieces = rows.difference(0.95).parts
            spread = spread_of_pilot(pieces, rows.layout.n, changes=rows.b[0] - rows.a[0])
            share = 2 * spread.rest / (2 * spread.rest + spread.document)
            shares[svd in pair].append(share)
    assert [len(found) for found in shares.values()] == [10, 22]
    ends = {
        cut: " to ".join(f"{end:.2f}".removeprefix("0") for end in (min(found), max(found)))
        for cut, found in shares.items()
    }
    said = f"it is {ends[False]} between methods, {ends[True]} with LoRA by SVD."
    page = (REPORTS.parent / "docs/explain/claims.md").read_text(encoding="utf-8")
    assert said in " ".join(page.split())


@pytest.mark.parametrize("task", ["word_problems", "mawps"])
def test_answers_of_a_page_are_said_to_be_of_one_checkpoint(task):
    page = (REPORTS / f"study/results/{task}/report.html").read_text(encoding="utf-8")
    labels = set(re.findall(r'"label": ?"([^"]*)"', page))
    assert labels
    assert all(re.search(r" \(\S+-seed\d+\)$", label) for label in labels), labels
