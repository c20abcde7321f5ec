"""The reports that lie in the repository are what `aurac report` makes of their stored cells."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from click.testing import CliRunner
from rounding import rounded

from aurac.cli import cli
from aurac.show import write_report

REPORTS = Path(__file__).parents[2] / "reports"
RUNS = sorted(path.parent for path in REPORTS.glob("*/results.json"))
DRAWN_BY = re.search(r"matplotlib ([\d.]+\d)", (REPORTS / "README.md").read_text())[1]


def without_figures(text):
    return re.sub(r"<svg .*?</svg>", "<svg/>", text, flags=re.DOTALL)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_report_is_current(run, tmp_path):
    written = write_report(run, out=tmp_path)
    made = {str(path.relative_to(tmp_path)) for path in written}
    kept = {
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file() and path.parent.name != "documents"
    }
    assert made == kept - {"results.json", "cells.tar.xz"}
    for name in sorted(made):
        old, new = run / name, tmp_path / name
        if old.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(old), pd.read_parquet(new), rtol=1e-7)
        elif name.startswith("figures/") and mpl.__version__ != DRAWN_BY:
            assert new.stat().st_size > 0
        elif old.suffix in (".png", ".pdf"):
            assert old.read_bytes() == new.read_bytes(), name
        else:
            texts = [rounded(path.read_text(encoding="utf-8")) for path in (old, new)]
            if mpl.__version__ != DRAWN_BY:
                texts = [without_figures(text) for text in texts]
            assert texts[0] == texts[1], name


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_it_was_made_by_the_commands_of_the_documents(run):
    assert RUNS
    readme = (REPORTS.parent / "README.md").read_text(encoding="utf-8")
    page = (run / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall(r'<pre class="code"[^>]*><code>(aurac compare[^<]*)</code>', page)
    assert command in readme
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work)/", page)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_people_read_percent_with_a_true_minus_sign(run):
    """What was asked, answered and recorded stands in code blocks and tables of settings."""
    text = (run / "report.md").read_text(encoding="utf-8").split("## Method")[0]
    text = re.sub(r"(?ms)^```.*?^```$", "", text)
    lines = [line for line in text.splitlines() if "####" not in line.replace("\\", "")]
    shown = "\n".join([*lines, (run / "table.tex").read_text(encoding="utf-8").replace("--", "")])
    assert "\N{MINUS SIGN}21.6" in shown
    assert not re.search(r"(?<![\w.])-\d", shown)
    assert not re.search(r"(?<![\w.])0?\.\d{3,}(?! \|)", shown)  # p values alone


def test_the_stored_run_can_be_read_without_a_model():
    for command, *options in (("score",), ("recommend", "--delta", "0.12")):
        done = CliRunner().invoke(cli, [command, str(RUNS[0]), *options, "--json"])
        assert done.exit_code == 0, done.output
