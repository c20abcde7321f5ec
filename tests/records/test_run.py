"""Reading a run folder: what is refused, sorted and left out."""

from __future__ import annotations

import json

import pytest
from report_runs import RunMaker, run_from, zoo_run

from aurac.errors import RunFolderError
from aurac.records.results_file import Results


def results(folder):
    return zoo_run(folder, n=20).results()


def test_labels_tell_inferences_apart_only_where_there_are_several(tmp_path):
    labels = [curve.label for curve in run_from(results(tmp_path)).curves]
    assert labels == ["matryoshka (with P)", "matryoshka (without P)", "dylora", "lora"]


def test_ranks_are_sorted_with_everything_that_follows_them(tmp_path):
    given = results(tmp_path)
    row = given["curves"][0]
    straight = run_from(given, tmp_path).curves[0]
    for key in ("ranks", "accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes"):
        row[key] = row[key][::-1]
    turned = run_from(given, tmp_path).curves[0]
    for name in ("ranks", "accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes"):
        assert getattr(turned, name) == getattr(straight, name)


def test_a_null_accuracy_is_a_missing_rank_not_a_zero(tmp_path):
    given = results(tmp_path)
    given["curves"][0]["accuracy"][1] = None
    curve = run_from(given).curves[0]
    assert curve.ranks == (1, 4, 8, 16)
    assert curve.missing == {2: "no accuracy was stored"}


def test_a_cell_outside_of_the_run_is_refused(tmp_path):
    given = results(tmp_path)
    given["curves"][0]["cells"]["1"] = "../../secret.json"
    with pytest.raises(RunFolderError, match="is outside"):
        run_from(given, tmp_path)


def test_nan_is_refused(tmp_path):
    maker = RunMaker(tmp_path, n=20).add("a", [0.1, 0.2], ranks=(1, 2))
    maker.write()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(maker.results()).replace('"mean":', '"mean": NaN, "x":', 1))
    with pytest.raises(RunFolderError, match="JSON is malformed"):
        Results.read(tmp_path)


def test_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        Results.read(tmp_path / "absent")
    with pytest.raises(RunFolderError, match=r"no results\.json"):
        Results.read(tmp_path)
