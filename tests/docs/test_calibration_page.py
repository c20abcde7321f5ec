"""The page on calibration says what the stored results say."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks" / "calibration").is_dir():
    pytest.skip("the benchmarks come with the sources only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.calibration.page import PROCEDURES, excess, limits, tables, write  # noqa: E402
from benchmarks.calibration.rows import RESULTS, Row, read, replace  # noqa: E402

PAGE = ROOT / "docs" / "design" / "statistics-calibration.md"


def test_the_page_is_made_from_the_stored_rows(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write(copy, read())
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert f"has all {len(read())} rows" in copy.read_text(encoding="utf-8")


def test_every_row_with_a_promise_belongs_to_one_procedure():
    claims = [claim for procedure in PROCEDURES for claim in procedure.claims]
    assert len(claims) == len(set(claims))
    left = {row.claim for row in read() if row.claim not in claims}
    # Of those left none is a promise about a verdict or an interval that aurac prints.
    assert {row.wanted for row in read() if row.claim in left} == {"–", "-", "≤ 1"}


def test_every_row_beyond_its_limits_is_on_the_page():
    text = "\n".join(tables(read()))
    claims = {claim for procedure in PROCEDURES for claim in procedure.claims}
    held = [row for row in read() if row.claim in claims and limits(row.wanted) != (None, None)]
    beyond = [row for row in held if excess(row) > 0]
    for row in beyond:
        assert row.found in text, row
        assert row.where in text, row
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{len(beyond)} of {len(held)} rows lie beyond their limits" in said
    assert all(excess(row) < float(row.standard_error) for row in beyond)  # as the page says


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("≤ .055", (None, 0.055)),
        (".935 or more", (0.935, None)),
        (".95", (0.935, None)),
        (".77 to .83", (0.77, 0.83)),
        (".80 ± .04", (0.76, pytest.approx(0.84))),
        ("–", (None, None)),
    ],
)
def test_limits(wanted, expected):
    assert limits(wanted) == expected


def test_a_topic_that_is_run_again_takes_the_place_of_its_rows_alone(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(RESULTS.read_bytes())
    pairs = [row for row in read() if row.topic == "pairs"]
    replace(path, pairs)
    assert path.read_bytes() == RESULTS.read_bytes()
    # sqrt(.9 · .1 / 100) = .03
    new = Row("pair, interval covers", "middle", 50, 0.9, 100, ".95").stored("pairs")
    assert (new.found, math.sqrt(0.9 * 0.1 / 100)) == ("0.900 ± 0.030", pytest.approx(0.03))
    replace(path, [new])
    assert [row for row in read(path) if row.topic == "pairs"] == [new]
    assert len(read(path)) == len(read()) - len(pairs) + 1
