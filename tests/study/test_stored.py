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


def rows(text):
    """Cells of the tables of a page, by their first two columns."""
    lines = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in text.splitlines() if "|" in line]
    return {tuple(line[:2]): line[2:] for line in lines if len(line) > 2}


def test_the_page_has_the_means_of_the_cells():
    """Counted from the cells' lines alone."""
    results = json.loads((STUDY / "results/word_problems/results.json").read_text())
    accuracy = defaultdict(list)
    for curve in results["curves"]:
        means = []
        for rank in curve["ranks"]:
            cell = curve["cells"][str(rank)]
            lines = (STUDY / "results/word_problems" / cell).read_text().splitlines()
            blocks = [line["content"] for line in map(json.loads, lines) if line["kind"] == "block"]
            outcomes = [x for block in blocks for x in block["metrics"]["exact_match,strict-match"]]
            means.append(100 * np.mean(outcomes[: curve["n_docs"]]))
        accuracy[curve["method"], curve["basis"], curve["rescale"]].append(means)
    page = rows((STUDY / "README.md").read_text(encoding="utf-8"))
    names = {
        ("LoRA", "SVD"): ("lora", "svd", "keep"),
        ("MatryoshkaLoRA", "SVD"): ("matryoshka", "svd", "keep"),
        ("MatryoshkaLoRA", "prefix, with its trained P"): ("matryoshka", "prefix", "trained"),
        ("LoRA", "prefix"): ("lora", "prefix", "rule"),
        ("DyLoRA", "prefix"): ("dylora", "prefix", "rule"),
        ("MatryoshkaLoRA", "prefix, as published"): ("matryoshka", "prefix", "rule"),
    }
    assert set(names.values()) == set(accuracy)
    for name, key in names.items():
        curves = np.array(accuracy[key])
        assert curves.shape == (4, 5)
        area = trapezoid(curves.mean(axis=0)) / 4  # ranks 1 to 16 are 4 doublings
        expected = [f"{value:.1f}" for value in (*curves.mean(axis=0), area)]
        assert [*page[name][:5], page[name][5].split()[0]] == expected, name


def test_the_page_quotes_the_report():
    report = (STUDY / "report.md").read_text(encoding="utf-8")
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"−?\d+\.\d \[−?\d+\.\d, −?\d+\.\d\]", page)
    assert len(quoted) == 14
    assert [each for each in quoted if each not in report] == []
