"""`analysis.json`: one record for a run and a study, described by a schema in the documents."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
from report_runs import zoo_run

from aurac.analysis.record import Analysis
from aurac.show import write_report
from scripts.schemas import analysis_schema

REPOSITORY = Path(__file__).parents[2]
REPORTS = REPOSITORY / "reports"
VALIDATOR = jsonschema.Draft202012Validator(analysis_schema())


def test_the_page_names_every_field_of_the_schema():
    page = (REPOSITORY / "docs" / "analysis-schema.md").read_text(encoding="utf-8")
    for name, record in analysis_schema()["$defs"].items():
        missing = set(record.get("properties", {})) - set(re.findall(r"\w+", page))
        assert not missing, (name, missing)


@pytest.mark.parametrize("name", ["word_problems", "study", "longer_training"])
def test_a_stored_analysis_follows_the_schema_and_is_read_back(name):
    text = (REPORTS / name / "analysis.json").read_text(encoding="utf-8")
    VALIDATOR.validate(json.loads(text))
    read = msgspec.json.decode(text, type=Analysis)
    assert read.to_json() == text
    assert read.schema == 1
    assert all(row.sentence for row in read.pairs)


def test_a_report_writes_the_analysis_that_it_shows(tmp_path):
    maker = zoo_run(tmp_path, n=60)
    maker.write()
    files = write_report(tmp_path, margin=0.1, axes=("parameters",))
    assert tmp_path / "analysis.json" in files
    content = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(content)
    [best], [choice], [budget] = (content[name] for name in ("best", "choices", "budgets"))
    assert best["leader"] in best["candidates"]
    assert len(choice["configurations"]) == sum(len(row["ranks"]) for row in content["scores"])
    assert {row["label"] for row in budget["scores"]} == {row["label"] for row in content["scores"]}
    tests = content["closely"]["tests"]
    assert {row["label"] for row in tests} == {row["label"] for row in content["scores"]}
    for row in tests:  # the bounds that hold together are of default truncations alone
        assert all((step["joint"] is None) == row["other"] for step in row["tests"])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    for row in content["closely"]["changes"]:
        assert f"| {row['label']}" in page
