"""The study's page is what its maker makes of the stored answers, and documents say the same."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from aurac.curves import numbers
from scripts.small_ranks import page

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
ROOT = STUDY.parents[1]
LORA, NESTED = "LoRA (SVD)", "MatryoshkaLoRA (SVD)"
LORA_FITTED, NESTED_FITTED = (f"{x} (SVD, fitted scale)" for x in ("LoRA", "MatryoshkaLoRA"))
BY_PREFIX, EACH = "MatryoshkaLoRA (prefix, fitted scale)", "LoRA at each rank (none)"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    page.main(folder)
    return folder


def test_the_page_is_what_its_maker_makes_of_the_stored_answers(made):
    names = [path.relative_to(made).as_posix() for path in made.rglob("*.*")]
    assert sorted(names) == [
        *("README.md", "figures/accuracy.png", "tables/accuracies.csv", "tables/differences.csv")
    ]
    stored, again = ((x / "README.md").read_text("utf-8") for x in (STUDY, made))
    assert stored == again
    for name in ("differences", "accuracies"):  # the last digit depends on the processor
        stored, again = (pd.read_csv(x / f"tables/{name}.csv") for x in (STUDY, made))
        pd.testing.assert_frame_equal(stored, again, rtol=0, atol=1.01e-4)
    stored, again = (matplotlib.image.imread(x / "figures/accuracy.png") for x in (STUDY, made))
    assert stored.shape == again.shape
    assert np.abs(stored - again).mean() < 0.01  # fonts are drawn a little apart elsewhere


def test_the_page_and_its_sentences_are_short():
    text = (STUDY / "README.md").read_text("utf-8")
    assert len(text.split()) <= 800
    assert text.count("|---|---|\n") == 3  # tables
    prose = re.sub(r"^(\||!|#|\[).*$", "", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\n|\n- ", prose):
        said = re.split(r"(?<=[.:?;])\*{0,2}\s", paragraph)
        assert all(len(sentence.split()) <= 25 for sentence in said), said
    assert len((STUDY / "appendix.md").read_text("utf-8").split()) <= 1500


def test_no_result_is_written_by_hand():
    template = Path(page.__file__).with_name("readme.md").read_text("utf-8")
    appendix = (STUDY / "appendix.md").read_text("utf-8").partition("## Families")[2]
    by_hand = re.sub(r"\{[^}]*\}|https?://\S*", "", template) + appendix
    assert not re.search(r"\d\.\d|\bis (better|worse|not shown)|includes 0", by_hand)


def test_documents_have_the_numbers_of_the_tables():
    """Of the old seeds, in docs/explain/truncation.md."""
    known = pd.read_csv(STUDY / "tables/accuracies.csv")
    known = known[(known.tasks == "both") & (known.ranks == "1 to 8")]
    known = known[known.seeds.isin(["47–54", "47–51"])].set_index("way").accuracy
    at_prefix = "MatryoshkaLoRA at its prefixes' rate"
    ways = [f"{at_prefix} (prefix without P)", f"{at_prefix} (prefix with P)"]
    ways += ["MatryoshkaLoRA (prefix with P)", BY_PREFIX, NESTED]
    text = (ROOT / "docs/explain/truncation.md").read_text("utf-8").partition("small_ranks")[2]
    said = re.findall(r"(\d+\.\d) %", text.partition("\n`aurac")[0])
    assert said == [numbers.percent(known[way] / 100) for way in ways]


@pytest.mark.parametrize(
    ("kind", "a", "b", "tasks", "ranks", "word"),
    [
        ("test", NESTED, LORA, "both", "1 to 8", "neither"),
        ("rank", EACH, LORA, "word problems", "1", "better"),
        ("rank", EACH, NESTED_FITTED, "word problems", "1", "neither"),
        ("rank", EACH, LORA_FITTED, "word problems", "1", "better"),
        ("rank", NESTED_FITTED, LORA_FITTED, "both", "2", "neither"),
        *(("rank", EACH, LORA, "word problems", rank, "neither") for rank in "248"),
        *(("rank", NESTED_FITTED, LORA, "both", rank, "better") for rank in "12"),
        *(("rank", NESTED_FITTED, LORA, "both", rank, "neither") for rank in "48"),
        ("first", NESTED_FITTED, "DyLoRA (prefix)", "both", "1 to 8", "better"),
        ("explored", BY_PREFIX, "LoRA (prefix, fitted scale)", "both", "1 to 8", "better"),
        ("explored", BY_PREFIX, "DyLoRA (prefix)", "both", "1 to 8", "better"),
    ],
)
def test_the_advice_of_documents_is_what_the_tables_show(kind, a, b, tasks, ranks, word):
    """The head of the page, docs/comparison.md and the README give it in sentences of their own."""
    known = pd.read_csv(STUDY / "tables/differences.csv")
    known = known.set_index(["kind", "a", "b", "tasks", "ranks"])["a is"]
    assert known[kind, a, b, tasks, ranks] == word
