"""The stored studies are recognised from their files, without a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aurac.cli.results import answered
from aurac.notebook import load_run
from aurac.records.run import read_run
from aurac.study import Work, left, load_study
from aurac.study.work import RUN

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.mark.parametrize("name", ["study", "longer_training"])
def test_a_stored_study_is_done_and_read_as_its_report_says(name):
    file, out = REPORTS / name / "study.yaml", REPORTS / name
    work = Work(load_study(file), file, out)
    states = list(left(work))
    assert {state for state, _ in states} == {"done"}
    run = read_run(out / "run")
    names = [adapter.stored(run, work.limit(adapter, RUN)) for _, adapter in states]
    assert len(set(names)) == len(run.adapters) == len(states)
    run = load_run(out)
    kept = pd.read_csv(out / "scores.csv")
    assert list(run.scores["adapter"]) == list(kept["adapter"])
    np.testing.assert_allclose(run.scores["aurac"], kept["aurac"])
    _, again = answered(out, ())  # `aurac report` and `aurac recommend` ask what the study asks
    np.testing.assert_allclose(again.pairs["p"], pd.read_csv(out / "pairs.csv")["p"])
    task = run.tasks[0].name
    answers = run.samples(task, "lora", 16)
    there = {curve.adapter for curve in run.curves if curve.task == task}
    assert {*answers["adapter"]} == {*run.question.groups["lora"]} & there
