"""Writes the JSON Schemas of `docs/` from the records of a run and of its analysis."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from aurac.analysis.record import ANALYSIS_FILE, ANALYSIS_SCHEMA, Analysis
from aurac.records.cell import CELL_SCHEMA, LINES, Envelope
from aurac.records.results_file import RESULTS_FILE, RESULTS_SCHEMA, Results

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCS = Path(__file__).parents[1] / "docs"


def cell_schema() -> dict[str, Any]:
    """JSON Schema of a line of a cell's file."""
    (envelope, *contents), definitions = _schemas_of(Envelope, *LINES.values())
    return {
        "$schema": DIALECT,
        "title": f"A line of a cell's file, schema {CELL_SCHEMA}",
        "allOf": [envelope],
        "oneOf": [
            {"properties": {"kind": {"const": kind}, "content": content}}
            for kind, content in zip(LINES, contents, strict=True)
        ],
        "$defs": definitions,
    }


def results_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`."""
    (results,), definitions = _schemas_of(Results)
    title = f"{RESULTS_FILE}, schema {RESULTS_SCHEMA}"
    return {"$schema": DIALECT, "title": title, **results, "$defs": definitions}


def analysis_schema() -> dict[str, Any]:
    """JSON Schema of `analysis.json`."""
    (analysis,), definitions = _schemas_of(Analysis)
    title = f"{ANALYSIS_FILE}, schema {ANALYSIS_SCHEMA}"
    return {"$schema": DIALECT, "title": title, **analysis, "$defs": definitions}


SCHEMAS = {"analysis": analysis_schema, "cell": cell_schema, "results": results_schema}


def _schemas_of(*kinds: type[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The JSON Schema of each record, and of the records in them."""
    records, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return list(records), definitions


if __name__ == "__main__":
    for name, schema in SCHEMAS.items():
        (DOCS / f"{name}-schema.json").write_text(json.dumps(schema(), indent=1) + "\n")
