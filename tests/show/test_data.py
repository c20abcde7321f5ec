"""The numbers as files: CSV and Parquet hold the same, typed, and nothing in CSV is a formula."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import RunMaker, ramp, stored_scores, zoo_run

from aurac.curves.display import percent
from aurac.show import write_report
from aurac.stats import difference, interval

STRATA = [f"subject {i // 30}" for i in range(90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    maker = zoo_run(folder, n=90, strata=STRATA)
    maker.add("lora", ramp(0.1, 0.7, 5), basis="svd", rescale="keep", role="extra")
    maker.add("=1+1", ramp(0.2, 0.5, 5), missing={4: "@out of memory"}, seed=2)
    maker.write()
    write_report(folder, margin=0.3)
    return folder


def rows_of(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def scores_of(folder, adapter, basis="prefix", rescale="rule"):
    curves = json.loads((folder / "results.json").read_text())["curves"]
    curve = next(
        c for c in curves if (c["adapter"], c["basis"], c["rescale"]) == (adapter, basis, rescale)
    )
    cells = [curve["cells"][str(rank)] for rank in curve["ranks"]]
    return np.array([stored_scores(folder, cell) for cell in cells])


@pytest.mark.parametrize(
    "name", ["table", "points", "pairs", "bases", "losses", "changes", "groups"]
)
def test_parquet_holds_what_csv_holds(folder, name):
    table = pq.read_table(folder / f"{name}.parquet")
    rows = rows_of(folder, name)
    assert rows
    assert table.num_rows == len(rows)
    assert table.column_names == list(rows[0])
    for column in table.column_names:
        kind = table.schema.field(column).type
        assert kind in (pa.string(), pa.int64(), pa.float64())
        for typed, text in zip(table[column].to_pylist(), (r[column] for r in rows), strict=True):
            if typed is None:
                assert text == ""
            elif kind == pa.string():
                assert text.removeprefix("'") == typed
            else:
                assert float(text) == typed


def test_a_formula_is_text_in_csv_and_itself_in_parquet(folder):
    assert {r["adapter"] for r in rows_of(folder, "table")} >= {"'=1+1"}
    assert "=1+1" in pq.read_table(folder / "table.parquet")["adapter"].to_pylist()
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        risky = [c for c in cells if c.startswith(("=", "+", "@", "-", "\t", "\r"))]
        assert all(float(cell) is not None for cell in risky), path  # negative numbers only


def test_groups_are_computed_on_their_documents_alone(folder):
    rows = [r for r in rows_of(folder, "groups") if r["adapter"] == "dylora"]
    areas = np.array([1, 2, 2, 2, 1]) / 8 @ scores_of(folder, "dylora")
    for name in dict.fromkeys(STRATA):
        here = np.array([s == name for s in STRATA])
        oracle = interval(areas[here])
        (row,) = [r for r in rows if r["group"] == name and r["measure"] == "aurac_log2"]
        assert float(row["value"]) == pytest.approx(areas[here].mean())
        assert float(row["low"]) == pytest.approx(oracle.low)
        assert row["n_docs"] == "30"
    at_two = [r for r in rows if r["rank"] == "2"]
    weighted = np.mean([float(r["value"]) for r in at_two])  # groups of equal size
    assert weighted == pytest.approx(scores_of(folder, "dylora")[1].mean())


def test_prefix_against_svd_is_paired(folder):
    (row,) = rows_of(folder, "bases")
    weights = np.array([1, 2, 2, 2, 1]) / 8
    prefix = weights @ scores_of(folder, "lora")
    svd = weights @ scores_of(folder, "lora", "svd", "keep")
    oracle = difference(prefix, svd, strata=STRATA)
    assert float(row["difference"]) == pytest.approx(svd.mean() - prefix.mean())
    assert float(row["low"]) == pytest.approx(oracle.estimate.low)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "## Prefix against SVD" in text
    assert "SVD − prefix" in text
    gap = scores_of(folder, "lora", "svd", "keep")[2] - scores_of(folder, "lora")[2]
    assert f"{percent(gap.mean())} \\[" in text  # at rank 4


def test_the_recommended_rank_is_marked_in_table_figure_and_alt_text(folder):
    [chosen] = [row for row in rows_of(folder, "configurations") if row["chosen"] == "yes"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"rank {chosen['rank']} recommended" in page
    assert '-ring"' in page
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "recommended: the smallest shown to be within 30 points of the best" in text
    assert "Bold: the bound is below 30 points, the margin." in text


def test_an_unpaired_surrogate_does_not_stop_the_report(tmp_path):
    RunMaker(tmp_path, n=20).add("a", [0.2, 0.5], ranks=(1, 2), texts=["\ud800"] * 20).write()
    write_report(tmp_path)
    assert "ud800" in (tmp_path / "report.md").read_text(encoding="utf-8")
