"""A run's log and its profile."""

from __future__ import annotations

import json
import logging

from aurac.runs.log import Profile, RunLog


def test_a_log_is_json_lines_with_the_run_and_what_was_warned(tmp_path):
    with RunLog(tmp_path) as log:
        log.event("cell", key="k")
        logging.getLogger("aurac.anything").warning("look: %s", "here")
    lines = [
        json.loads(x) for x in (tmp_path / f"logs/{log.run_id}.jsonl").read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == ["cell", "message", "end"]
    assert {line["run"] for line in lines} == {log.run_id}
    assert lines[1]["text"] == "look: here"
    assert lines[2]["how"] == "done"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with RunLog(tmp_path) as log:
        log.event("cell")


def test_a_profile_adds_up(monkeypatch):
    """2 s of `a`, of which 1.5 s belong to `within`; 1 s told of `b`; 3.25 s in all."""
    now = [10.0]
    monkeypatch.setattr("aurac.runs.log.time.perf_counter", lambda: now[0])
    profile = Profile()
    with profile.spent("a"):
        now[0] += 0.5
        with profile.spent("within"):
            now[0] += 1.5
    now[0] += 1.25
    profile.add("b", 1.0, 3)
    assert profile.to_dict() == {
        "schema": 1,
        "seconds": 3.25,
        "parts": {
            "within": {"seconds": 1.5, "share": 0.4615, "count": 1},
            "b": {"seconds": 1.0, "share": 0.3077, "count": 3},
            "a": {"seconds": 0.5, "share": 0.1538, "count": 1},
        },
        "other": 0.25,
    }
