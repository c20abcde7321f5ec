"""The stored study is recognised from its files, without a weight."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from aurac.notebook import load_run
from aurac.study import StudyFolder, load_study

STUDY = Path(__file__).parents[2] / "reports/small_ranks"


@pytest.mark.parametrize(
    ("file", "out", "adapters"), [("study.yaml", "", 83), ("fresh.yaml", "fresh", 32)]
)
def test_a_stored_study_is_done_and_read_as_its_report_says(file, out, adapters):
    study_folder = StudyFolder(load_study(STUDY / file), STUDY / out)
    (part,) = study_folder.study.parts
    there, folder = study_folder.survey(part), STUDY / out / part
    assert {job.state for job in there.jobs} == {"done"}
    assert len([job for job in there.jobs if job.where == "run"]) == adapters
    run, kept = load_run(folder), json.loads((folder / "analysis.json").read_text())
    for name in ("scores", "pairs"):  # the last bit of a dot product depends on the processor
        stored = pd.DataFrame(kept[name])
        again = pd.DataFrame(json.loads(getattr(run, name).to_json(orient="records")))
        pd.testing.assert_frame_equal(again, stored[[*again]], check_dtype=False)
    winners = {name: winner.record() for name, winner in there.winners.items()}
    found = json.loads((folder / "search.json").read_text()) if winners else {}
    again = json.loads(json.dumps(winners), parse_float=lambda text: round(float(text), 10))
    assert again == json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 10))
