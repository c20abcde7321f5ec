"""The study in the repository: its report is current, and its table follows from its cells."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from rounding import rounded
from scipy.integrate import trapezoid

from aurac.cli import cli
from scripts.study_page import with_tables

STUDY = Path(__file__).parents[2] / "reports/study"


def test_the_report_is_made_again_without_weights(tmp_path):
    shutil.copytree(STUDY, tmp_path / "study")
    for name in ("report.md", "analysis.json"):
        (tmp_path / "study" / name).unlink()
    command = ["study", str(tmp_path / "study/study.yaml"), "--out", str(tmp_path / "study")]
    done = CliRunner().invoke(cli, [*command, "--report"])
    assert done.exit_code == 0, done.output
    for name in ("report.md", "analysis.json"):
        made, stored = ((at / name).read_text() for at in (tmp_path / "study", STUDY))
        assert rounded(made) == rounded(stored)


TASKS = ("word_problems", "mawps", "arc_easy")  # columns of the page's table
METHODS = {
    "LoRA": "lora",
    "DyLoRA": "dylora",
    "MatryoshkaLoRA": "matryoshka",
    "LoRA, 360 steps": "lora_long",
    "DyLoRA, 360 steps": "dylora_long",
    "MatryoshkaLoRA, 360 steps": "matryoshka_long",
    "LoRA at each rank": "lora_per_rank",
    "nested losses": "nested_loss",
    "nested losses, 60 steps": "nested_loss_half",
}
FEW = {"lora_per_rank", "nested_loss", "nested_loss_half"}  # three seeds
TRUNCATIONS = {
    "prefix": ("prefix", "rule"),
    "with P": ("prefix", "trained"),
    "as published": ("prefix", "rule"),
    "prefix, kept": ("prefix", "keep"),
    "prefix, fitted": ("prefix", "fit"),
    "SVD": ("svd", "keep"),
    "SVD, fitted": ("svd", "fit"),
    "–": ("prefix", "rule"),  # each adapter as it was trained
}


def shown(text):
    """(task, method, basis, rescale) → AURAC in percent, as the table of the page has it."""
    areas = {}
    for line in text.splitlines():
        method, truncation, *cells = re.split(r"\s*\|\s*", line.strip("| \n")) + [""] * 4
        if method in METHODS and truncation in TRUNCATIONS:
            for task, cell in zip(TASKS, cells, strict=False):
                if cell:
                    key = (task, METHODS[method], *TRUNCATIONS[truncation])
                    areas[key] = float(cell.split()[0])
    return areas


def counted(task):
    """(method, basis, rescale) → accuracy in percent of each curve at each rank."""
    folder = STUDY / "results" / task
    results = json.loads((folder / "results.json").read_text())
    metric = results["tasks"][0]["metric"]
    accuracy = defaultdict(list)
    for curve in results["curves"]:
        means = []
        for rank in curve["ranks"]:
            lines = (folder / curve["cells"][str(rank)]).read_text().splitlines()
            blocks = [line["content"] for line in map(json.loads, lines) if line["kind"] == "block"]
            outcomes = [x for block in blocks for x in block["metrics"][metric]]
            means.append(100 * np.mean(outcomes[: curve["n_docs"]]))
        method = next(m for m, group in results["groups"].items() if curve["adapter"] in group)
        accuracy[method, curve["basis"], curve["rescale"]].append(means)
    return accuracy


def test_the_page_has_the_means_of_the_cells():
    """Counted from the cells' lines alone."""
    page = shown((STUDY / "README.md").read_text(encoding="utf-8"))
    expected = {(t, *key): np.array(curves) for t in TASKS for key, curves in counted(t).items()}
    assert page.keys() == expected.keys()
    for key, area in page.items():
        task, method, *_ = key
        few = method in FEW or (task, method) == ("arc_easy", "dylora_long")
        seeds = 3 if few else 5
        curves = expected[key]
        assert curves.shape == (seeds, 5), key
        # Ranks 1 to 16 are 4 doublings.
        assert abs(area - trapezoid(curves.mean(axis=0)) / 4) <= 0.05 + 1e-9, key


def test_the_tables_of_the_page_are_those_of_the_analysis():
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    analysis = json.loads((STUDY / "analysis.json").read_text(encoding="utf-8"))
    assert with_tables(page, analysis) == page


def test_the_page_quotes_the_report():
    report = (STUDY / "report.md").read_text(encoding="utf-8")
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"−?\d+\.\d \[−?\d+\.\d, −?\d+\.\d\]", page)
    assert len(quoted) == 59
    assert [each for each in quoted if each not in report] == []
