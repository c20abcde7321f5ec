"""A report over parameters or bytes: a section, figures and files of its own."""

from __future__ import annotations

import csv

import pytest
from report_runs import RunMaker

import aurac
from aurac.analysis import paired_curves
from aurac.curves.display import percent
from aurac.errors import UsageError
from aurac.notebook import load_run
from aurac.show import write_report

NAME = "AURAC over parameters"
SPENT = (2, 5, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two adapters, the second with more parameters at a rank and up to rank 4 only.

    Its parameters are not in proportion to the rank, so that no area over rank passes for one
    over parameters.
    """
    maker = RunMaker(tmp_path_factory.mktemp("run"), n=120)
    maker.add("attention", (0.2, 0.35, 0.5, 0.6, 0.7))
    maker.add("linear", (0.35, 0.5, 0.6), ranks=(1, 2, 4))
    maker.curves[1]["parameters"] = [46_080 * each for each in SPENT]
    maker.add("unknown", (0.1, 0.2), ranks=(1, 2))
    maker.curves[2]["parameters"] = []
    maker.write()
    return maker.folder


def rows(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_section_has_its_own_name_figures_and_files(folder, tmp_path):
    files = write_report(folder, out=tmp_path, axes=("parameters",))
    text = (tmp_path / "report.md").read_text()
    section = text[text.index(f"## {NAME}") :].split("\n## ")[0]
    assert "says nothing of its parameters at rank 1." in section
    assert "92 160 and 368 640" in section.replace("\u00a0", " ")  # what both have
    assert "highest rank" not in section
    picture = next(f for f in files if f.name == "rank-accuracy-word_problems-parameters.svg")
    drawn = picture.read_text()
    assert f"{NAME} (%)" in drawn
    assert "Parameters (millions, log2 axis)" in drawn
    assert "unknown" not in drawn

    curves = {curve.adapter: curve for curve in load_run(folder).curves}
    pair = paired_curves(curves["attention"], curves["linear"], axis="parameters")
    [written] = rows(tmp_path / "pairs_parameters.csv")
    sign = 1 if written["first_adapter"] == "linear" else -1
    assert sign * float(written["difference"]) == pytest.approx(pair.estimate.value)
    assert (float(written["budget_from"]), float(written["budget_to"])) == pair.span
    areas = {row["adapter"]: row for row in rows(tmp_path / "table_parameters.csv")}
    assert set(areas) == {"attention", "linear"}
    assert "aurac_parameters" in areas["linear"]
    assert "aurac_log2" not in areas["linear"]


def test_without_an_axis_nothing_is_said_of_budgets_but_that_sizes_differ(folder, tmp_path):
    write_report(folder, out=tmp_path)
    text = (tmp_path / "report.md").read_text().replace("\u00a0", " ")
    assert NAME not in text
    assert not (tmp_path / "table_parameters.csv").exists()
    assert "at rank 1, linear has 92 160 parameters and attention 46 080" in text
    with pytest.raises(UsageError, match="axis 'log2'"):
        write_report(folder, out=tmp_path, axes=("log2",))


def test_a_plot_over_parameters_names_the_areas_over_parameters(folder):
    ax = load_run(folder).plot(axis="parameters")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    drawn = [line for line in ax.lines if str(line.get_gid()).startswith("curve-")]
    places = [list(line.get_xdata()) for line in drawn]
    assert places[0] == pytest.approx([0.04608 * r for r in (1, 2, 4, 8, 16)])
    assert places[1] == pytest.approx([0.04608 * each for each in SPENT])
    [curve] = [curve for curve in load_run(folder).curves if curve.adapter == "linear"]
    area = percent(aurac.score(curve, axis="parameters").value)
    assert f"linear {area}" in labels
    assert drawn[1].get_label() == f"linear {area}"
    assert f"linear {percent(aurac.score(curve).value)}" not in labels
    assert not any("unknown" in label for label in labels)
