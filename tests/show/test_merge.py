"""Several runs in one report, and the reasons why they are refused."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from report_runs import RunMaker

from aurac.cli.runs import report
from aurac.errors import RunFolderError
from aurac.show import write_report

pytestmark = pytest.mark.usefixtures("plain_figures")


def make(folder, adapter, *, change=None, seed=0):
    maker = RunMaker(folder, n=30, seed=seed).add(adapter, [0.3, 0.6], ranks=(1, 2))
    maker.adapters[adapter]["sha256"] = adapter
    maker.write()
    if change:
        results = json.loads((folder / "results.json").read_text())
        change(results)
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_two_runs_become_one_report(tmp_path):
    runs = [make(tmp_path / "x", "a"), make(tmp_path / "y", "b")]
    written = write_report(*runs, out=tmp_path / "both")
    assert written[0].parent == tmp_path / "both"
    text = (tmp_path / "both/report.md").read_text()
    assert "a, b on word\\_problems" in text
    assert "Paired differences" in text
    assert not (tmp_path / "x/report.md").exists()


def test_several_runs_need_a_folder(tmp_path):
    with pytest.raises(RunFolderError, match="out="):
        write_report(make(tmp_path / "x", "a"), make(tmp_path / "y", "b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["tasks"][0].update(documents_sha256="e" * 64), "other documents"),
        (lambda r: r["tasks"][0].update(prompts_sha256="e" * 64), "other prompts"),
        (lambda r: r["tasks"][0].update(num_fewshot=5), "few-shot"),
        (lambda r: r["tasks"][0].update(limit=10), "another limit"),
        (lambda r: r["provenance"]["base"].update(sha256="e" * 64), "another base model"),
        (lambda r: r["provenance"].update(dtype="bfloat16"), "another numeric type"),
        (
            lambda r: r["adapters"].append({"name": "a", "sha256": "other"}),
            "another adapter named a",
        ),
    ],
)
def test_runs_that_do_not_compare_are_refused_with_the_reason(tmp_path, change, says):
    first = make(tmp_path / "x", "a")
    second = make(tmp_path / "y", "b", change=change)
    with pytest.raises(RunFolderError, match=says):
        write_report(first, second, out=tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_the_same_curve_twice_is_shown_once_unless_its_numbers_differ(tmp_path):
    first, again = make(tmp_path / "x", "a"), make(tmp_path / "y", "a")
    write_report(first, again, out=tmp_path / "both")
    assert len((tmp_path / "both/table.csv").read_text().splitlines()) == 2
    other = make(tmp_path / "z", "a", seed=9)
    with pytest.raises(RunFolderError, match="other numbers"):
        write_report(first, other, out=tmp_path / "three")


def test_command(tmp_path):
    folder = make(tmp_path / "x", "a")
    done = CliRunner().invoke(report, [str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "report.html" in done.output
    done = CliRunner().invoke(report, [str(folder), "--json"], catch_exceptions=False)
    assert str(folder / "report.md") in json.loads(done.output)["files"]
