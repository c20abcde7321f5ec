"""What ranks cost to serve in a report: a figure, a table and a file of numbers."""

from __future__ import annotations

import csv

import pytest
from report_runs import RunMaker, ramp, served, zoo_run

from aurac.records.results_file import Results
from aurac.records.run import stored_run
from aurac.show import write_report
from aurac.show.build import Builder
from aurac.show.sections import serving_blocks


def blocks_of(folder, figures):
    builder = Builder(stored_run(Results.read(folder), folder), figures)
    names = {block.name: block for block in builder.costs().blocks}
    return names.get("latency-word_problems"), names.get("serving-word_problems")


@pytest.fixture
def figures(tmp_path):
    (tmp_path / "figures").mkdir()
    return tmp_path / "figures"


def test_a_table_has_accuracy_and_times_at_each_rank(tmp_path, figures):
    folder = served(zoo_run(tmp_path / "run", n=60).write())
    picture, table = blocks_of(folder, figures)
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    assert rows[0]["adapter"].text == "merged, any rank"
    assert rows[0]["token [95 %]"].text == "9.00 [8.77, 9.23]"
    assert len(rows) == 1 + 3 * 5  # published inference has the same shape, and no rows
    by_rank = {row["rank"].value: row for row in rows if row["adapter"].text == "lora"}
    accuracy = next(c for c in Results.read(folder).curves if c.adapter == "lora").accuracy
    assert [by_rank[r]["accuracy (%)"].value for r in (1, 2, 4, 8, 16)] == accuracy
    assert by_rank[2]["token [95 %]"].value == pytest.approx(0.0105)
    assert by_rank[2]["tokens/s"].value == pytest.approx(1 / 0.0105)
    assert by_rank[2]["prompt tokens/s"].value == pytest.approx(256 / 0.21)
    gaps = {rank: row["token − largest rank"].text for rank, row in by_rank.items()}
    assert gaps[2].startswith("−3.50 [")
    assert (gaps[8], gaps[16]) == ("within noise", "–")
    assert "2026-01-02" in table.caption
    assert "Hollow: the difference to" in picture.caption
    assert "lora takes 10.2 [" in picture.alt


def test_few_repeats_say_nothing_of_noise(tmp_path, figures):
    picture, table = blocks_of(served(zoo_run(tmp_path / "run", n=60).write(), repeats=5), figures)
    assert "Hollow" not in picture.caption
    assert "intervals" not in picture.caption
    assert {row[-1].text for row in table.rows[1:]} == {"too few repeats", "–"}


def test_it_stands_in_every_form_of_the_report(tmp_path):
    folder = served(zoo_run(tmp_path / "run", n=60).write())
    names = {path.name for path in write_report(folder)}
    assert {"latency-word_problems.svg", "serving.csv", "serving.parquet"} <= names
    assert "latency-word_problems.svg" in (folder / "report.md").read_text()
    assert 'id="latency-word_problems-curve-0"' in (folder / "report.html").read_text()
    rows = list(csv.DictReader((folder / "serving.csv").read_text().splitlines()))
    assert [row["adapter"] for row in rows[:2]] == ["", "matryoshka"]
    assert [int(row["rank"]) for row in rows[:6]] == [0, 1, 2, 4, 8, 16]
    assert float(rows[0]["token_seconds"]) == pytest.approx(0.009)
    assert 0 < float(rows[1]["prompt_low"]) < float(rows[1]["prompt_high"])


def test_ranks_that_were_not_measured_and_budgets_are_left_out(tmp_path, figures):
    maker = RunMaker(tmp_path / "run", n=60)
    maker.add("plain", ramp(0.2, 0.7, 5))
    maker.add("spent", ramp(0.2, 0.7, 5), basis="energy")
    folder = served(maker.write(), ranks=(2, 16))
    picture, table = blocks_of(folder, figures)
    assert picture.series == ("plain",)
    assert [(row[0].text, row[1].value) for row in table.rows[1:]] == [("plain", 2), ("plain", 16)]
    served(folder, ranks=(32,))  # no rank of the run
    assert blocks_of(folder, figures) == (None, None)


def test_one_seed_speaks_for_a_recipe_and_runs_keep_their_own_measurement(tmp_path):
    first, second = (RunMaker(tmp_path / name, n=60) for name in "ab")
    for seed in (1, 2):
        first.add(f"seed-{seed}", ramp(0.2, 0.7, 5), seed=seed)
    second.add("other", ramp(0.2, 0.7, 5))
    second.adapters["other"] |= {"sha256": "c" * 64, "recipe": {"name": "else"}}
    folders = [served(first.write()), served(second.write(), repeats=6)]
    out = tmp_path / "both"
    write_report(*folders, out=out, groups={"pair": ["seed-1", "seed-2"]})
    text = (out / "report.md").read_text()
    assert "figures/latency-word_problems.svg" in text
    assert "figures/latency-word_problems-2.svg" in text
    assert "| pair | 16 |" in text
    assert "over 10 rounds" in text
    assert "over 6 rounds" in text


def test_without_a_measurement_there_is_nothing(tmp_path, figures):
    folder = zoo_run(tmp_path / "run", n=60).write()
    run = stored_run(Results.read(folder), folder)
    assert run.serving == ()
    assert serving_blocks(run, Builder(run, figures).pictures, "word_problems", run.curves) == []
