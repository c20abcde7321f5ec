"""A run's log."""

from __future__ import annotations

import json
import logging

from aurac.runs.log import RunLog


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
