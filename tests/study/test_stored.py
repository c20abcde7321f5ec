"""The stored studies are recognised from their files, without a weight."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurac.analysis import Question, analyse
from aurac.study import load_study, planned
from aurac.study.execution import missing, stored_run

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.mark.parametrize("name", ["study", "longer_training"])
def test_nothing_of_a_stored_study_is_left_to_do(name):
    file, out = REPORTS / name / "study.yaml", REPORTS / name
    study, run = load_study(file), stored_run(out)
    adapters = planned(study, file)
    assert missing(study, file, out) == []
    names = [adapter.stored(run, None) for adapter in adapters]
    assert len(set(names)) == len(run.adapters) == len(adapters)


def test_the_mean_over_tasks_matches_seeds_of_adapters_with_other_names():
    run = stored_run(REPORTS / "study")
    scores = analyse(run.curves, Question(groups=run.groups)).scores
    mean = scores[(scores["task"] == "mean over tasks") & (scores["adapter"] == "lora")].iloc[0]
    assert mean["low"] < mean["aurac"] < mean["high"]
