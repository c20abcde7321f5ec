"""The study's page, made again from what is stored, and what a changed one would say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from aurac.show import numbers
from scripts.small_ranks import __main__ as made_by
from scripts.small_ranks.claims import Claim, verdict
from scripts.small_ranks.page import SAID

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
ROOT = STUDY.parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that the maker writes."""
    folder = tmp_path_factory.mktemp("page")
    made_by.main(folder)
    return folder


def texts(folder):
    """The page, its appendix and its tables, by their names."""
    paths = [folder / "README.md", folder / "appendix.md", *sorted(folder.glob("tables/*.csv"))]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def test_the_page_is_what_its_maker_makes_of_the_stored_outcomes(made):
    assert texts(STUDY) == texts(made)
    stored, again = (matplotlib.image.imread(x / "figures/accuracy.png") for x in (STUDY, made))
    assert stored.shape == again.shape
    assert np.abs(stored - again).mean() < 0.01  # fonts are drawn a little apart elsewhere


OTHER = {"better": "worse", "worse": "better", "not shown": "better"}
MUTATIONS = {
    "a lower end": ("README.md", r"\\\[−?\d+\.\d", r"\\[−99.9"),
    "an upper end": ("README.md", r"−?\d+\.\d\\\]", r"99.9\\]"),
    "two numbers swapped": ("README.md", r"(\d+\.\d)( +\| +)(\d+\.\d)( +\|)", r"\3\2\1\4"),
    "another row's number": (
        "README.md",
        r"(LoRA by SVD \| +)(\S+)(.*?SVD \| +)(\S+)",
        r"\1\4\3\4",
    ),
    "another number in the prose": (
        "README.md",
        r"(than LoRA: )(.*?)( over the ranks, )(.*?)( at rank 4)",
        r"\1\4\3\2\5",
    ),
    "better for worse": (
        "README.md",
        r"\] (better|worse|not shown)",
        lambda found: f"] {OTHER[found[1]]}",
    ),
    "is better": ("README.md", r"is not shown to be better|is worse", "is better"),
    "p": ("README.md", r"\|( &lt;)? \.\d+ \|", "| .999 |"),
    "a factor": ("appendix.md", r"(## Factors.*?\| +)\d+\.\d+( \|)", r"\g<1>99.9\2"),
    "a rate": ("appendix.md", r"(## The search.*?\| +)0\.008( \|)", r"\g<1>0.004\2"),
    "a token count": ("appendix.md", r"(on MAWPS, of 8: )\d", r"\g<1>9"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_page_is_not_what_its_maker_makes(name, made):
    file, pattern, instead = MUTATIONS[name]
    stored = texts(STUDY)
    changed = re.sub(pattern, instead, stored[file], count=1, flags=re.DOTALL)
    assert changed != stored[file], "there was nothing to change"
    assert stored | {file: changed} != texts(made)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "not shown"), (0, 1, "not shown")],
)
def test_a_verdict_is_what_the_interval_shows(low, high, word):
    assert verdict(Claim(0.0, low, high, 1.0, (), (), (low, high))) == word
    assert word in SAID


def test_no_number_with_an_interval_and_no_verdict_is_written_by_hand():
    folder = Path(made_by.__file__).parent
    page, appendix = ((folder / name).read_text("utf-8") for name in ("page.md", "appendix.md"))
    assert not re.search(r"(?<!\d)\d{1,2}\.\d(?!\d)|\bbetter\b|\bworse\b|not shown", page)
    assert not re.search(r"\d\.\d+ \[|\bbetter\b|\bworse\b|not shown", appendix)


def test_the_page_is_short():
    text = (STUDY / "README.md").read_text("utf-8")
    words = [word for word in text.split() if not re.fullmatch(r"\||\|[:|-]+", word)]
    assert len(words) <= 800
    assert text.count("|:--") == 3  # tables
    assert text.count("![") == 1


def test_documents_have_the_numbers_of_the_tables():
    """The accuracies without P, with it and otherwise, which a page explains."""
    with (STUDY / "tables/accuracies.csv").open(encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if (r["tasks"], r["ranks"]) == ("both", "1 to 8")]
    known = {
        (row["method"], row["cut"]): numbers.percent(float(row["value"]) / 100) for row in rows
    }
    nested, at_prefix = "MatryoshkaLoRA", "MatryoshkaLoRA at its prefixes' rate"
    wanted = [
        *((at_prefix, "prefix without P"), (at_prefix, "prefix with P")),
        *((nested, "prefix with P"), (nested, "prefix, fitted scale"), (nested, "SVD")),
    ]
    text = (ROOT / "docs/explain/truncation.md").read_text("utf-8").partition("small_ranks")[2]
    said = re.findall(r"(\d+\.\d) %", text.partition("\n`aurac")[0])
    assert said == [known[each] for each in wanted]
