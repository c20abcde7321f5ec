"""Reading results.json: what is refused, sorted and left out."""

from __future__ import annotations

import json

import pytest
from report_runs import RunMaker, zoo_run

from aurac.errors import RunFolderError
from aurac.report.model import parse
from aurac.runs.schema import Results


def results(folder):
    return zoo_run(folder, n=20).results()


def test_labels_tell_inferences_apart_only_where_there_are_several(tmp_path):
    labels = [curve.label for curve in parse(results(tmp_path)).curves]
    assert labels == ["matryoshka (trained)", "matryoshka (published)", "dylora", "lora"]


def test_ranks_are_sorted_with_everything_that_follows_them(tmp_path):
    given = results(tmp_path)
    row = given["curves"][0]
    straight = parse(given, tmp_path).curves[0]
    for key in ("ranks", "accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes"):
        row[key] = row[key][::-1]
    assert parse(given, tmp_path).curves[0] == straight


def test_a_null_accuracy_is_a_missing_rank_not_a_zero(tmp_path):
    given = results(tmp_path)
    given["curves"][0]["accuracy"][1] = None
    curve = parse(given).curves[0]
    assert curve.ranks == (1, 4, 8, 16)
    assert curve.missing == {2: "no accuracy was stored"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema 2"),
        ({"curves": None}, "without a list of curves"),
        ({"curves": [{"ranks": [1]}]}, "adapter"),
    ],
)
def test_other_shapes_are_refused(tmp_path, change, says):
    with pytest.raises(RunFolderError, match=says):
        parse({**results(tmp_path), **change})


def test_lists_of_unequal_length_are_refused(tmp_path):
    given = results(tmp_path)
    given["curves"][0]["accuracy_low"].pop()
    with pytest.raises(RunFolderError, match="4 values for 5 ranks"):
        parse(given)


def test_a_cell_outside_of_the_run_is_refused(tmp_path):
    given = results(tmp_path)
    given["curves"][0]["cells"]["1"] = "../../secret.json"
    with pytest.raises(RunFolderError, match="is outside"):
        parse(given, tmp_path)


def test_nan_is_refused(tmp_path):
    maker = RunMaker(tmp_path, n=20).add("a", [0.1, 0.2], ranks=(1, 2))
    maker.write()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(maker.results()).replace('"mean":', '"mean": NaN, "x":', 1))
    with pytest.raises(RunFolderError, match="JSON is malformed"):
        Results.read(tmp_path)


def test_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match=r"no results\.json"):
        Results.read(tmp_path / "absent")
