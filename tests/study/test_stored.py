"""The study in the repository: its report is current, and its table follows from its cells."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from scipy.integrate import trapezoid

from aurac.cli import cli

STUDY = Path(__file__).parents[2] / "reports/study"


def test_the_report_is_made_again_without_weights(tmp_path):
    shutil.copytree(STUDY, tmp_path / "study")
    for name in ("report.md", "analysis.json"):
        (tmp_path / "study" / name).unlink()
    command = ["study", str(tmp_path / "study/study.yaml"), "--out", str(tmp_path / "study")]
    done = CliRunner().invoke(cli, [*command, "--report"])
    assert done.exit_code == 0, done.output
    for name in ("report.md", "analysis.json"):
        assert (tmp_path / "study" / name).read_text() == (STUDY / name).read_text()


TASKS = {"word problems": "word_problems", "MAWPS": "mawps", "ARC-Easy": "arc_easy"}
METHODS = {
    "LoRA": "lora",
    "DyLoRA": "dylora",
    "DyLoRA, 360 steps": "dylora_long",
    "MatryoshkaLoRA": "matryoshka",
    "LoRA at each rank": "lora_per_rank",
    "nested losses": "nested_loss",
    "nested losses, 60 steps": "nested_loss_half",
}
TRUNCATIONS = {
    "prefix": ("prefix", "rule"),
    "prefix, with P": ("prefix", "trained"),
    "prefix, as published": ("prefix", "rule"),
    "SVD": ("svd", "keep"),
    "–": ("prefix", "rule"),  # each adapter as it was trained
}


def rows(text):
    """Cells of the tables of a page, by their first three columns."""
    lines = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in text.splitlines() if "|" in line]
    return {tuple(line[:3]): line[3:] for line in lines if line[0] in TASKS}


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
    page = rows((STUDY / "README.md").read_text(encoding="utf-8"))
    expected = {(t, *key): curves for t in TASKS.values() for key, curves in counted(t).items()}
    assert len(page) == len(expected)
    for (task, method, truncation), cells in page.items():
        basis, rescale = TRUNCATIONS[truncation]
        curves = np.array(expected[TASKS[task], METHODS[method], basis, rescale])
        three = method not in ("LoRA", "DyLoRA", "MatryoshkaLoRA")
        assert curves.shape == (3 if three else 5, 5)
        area = trapezoid(curves.mean(axis=0)) / 4  # ranks 1 to 16 are 4 doublings
        shown = [float(text) for text in (*cells[:5], cells[5].split()[0])]
        rounded = np.abs(np.array(shown) - [*curves.mean(axis=0), area]) <= 0.05 + 1e-9
        assert rounded.all(), (task, method, truncation)


def test_the_page_quotes_the_report():
    report = (STUDY / "report.md").read_text(encoding="utf-8")
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"−?\d+\.\d \[−?\d+\.\d, −?\d+\.\d\]", page)
    assert len(quoted) == 46
    assert [each for each in quoted if each not in report] == []
