"""The stored study is recognised from its files, without a weight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from aurac.cli.results import answered
from aurac.curves.checks import MEAN
from aurac.notebook import load_run
from aurac.study import Work, load_study

STUDY = Path(__file__).parents[2] / "reports/small_ranks"


def rounded(value):
    """Its numbers to ten digits: the last bit of a dot product depends on the processor."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return round(value, 10) if isinstance(value, float) else value


def test_a_stored_study_is_done_and_read_as_its_report_says():
    work = Work(load_study(STUDY / "study.yaml"), STUDY)
    there, out = work.survey("smollm2"), STUDY / "smollm2"
    found = json.loads((out / "search.json").read_text())
    for group in ("lora", "matryoshka", "dylora"):
        states = {job.state for job in there.jobs if job.plan.group == group}
        assert states == {"done"}
        again = json.loads(json.dumps(there.winners[group].record()))
        assert rounded(again) == rounded(found[group])
    run, kept = load_run(out), pd.read_csv(out / "scores.csv")
    scores = run.scores[(run.scores.task != MEAN) | run.scores.aurac.notna()]
    kept = kept[(kept.task != MEAN) | kept.aurac.notna()]  # not those that say why there is none
    assert list(scores["adapter"]) == list(kept["adapter"])
    np.testing.assert_allclose(scores["aurac"], kept["aurac"])
    again = answered(out, ())  # `aurac report` and `aurac recommend` ask what the study asks
    np.testing.assert_allclose(again.pairs["p"], pd.read_csv(out / "pairs.csv")["p"])
    answers = run.samples("mawps", "lora", 16)
    there = {curve.adapter for curve in run.curves if curve.task == "mawps"}
    assert {*answers["adapter"]} == {*run.question.groups["lora"]} & there
