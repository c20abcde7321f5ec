"""The page on claims has every kind of sentence that an analysis makes."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from document_blocks import REPOSITORY

from aurac.analysis.choice_rows import Choice, Configuration
from aurac.analysis.record import Advice
from aurac.analysis.rows import BestRow, InPlace, MarginTest, PairRow
from aurac.analysis.sentences import (
    advice_sentence,
    best_sentences,
    bounded_sentence,
    choice_sentences,
    depends_sentence,
    margin_sentence,
    pair_sentence,
)
from aurac.stats.mean import Estimate

PAGE = (REPOSITORY / "docs/explain/claims.md").read_text(encoding="utf-8")
ESTIMATE = Estimate(0.05, 0.01, 0.03, 0.07, "t")
OVER = {"value": 0.05, "estimate": ESTIMATE, "p": 0.2, "p_holm": 0.4, "conditional": True}


def phrases():
    """What the page quotes in bold or in the first column of its table, as patterns."""
    bold = re.findall(r'\*\*"(.+?)"', " ".join(PAGE.split()))
    column = [
        text for row in re.findall(r"^\| (\".+?) \|", PAGE, re.MULTILINE) for text in row.split('"')
    ]
    for text in (*bold, *column):
        for quoted in re.split(r"\. | \(", text.strip(" ,.…")):
            if len(quoted.split()) > 1:
                pattern = re.sub(r"\d[\d.]*", r"[\\d.]+", re.escape(quoted))
                yield re.compile(re.sub(r"\b[ABCT]\b", ".+?", pattern), re.IGNORECASE)


def pairs():
    row = PairRow("a", "b", "t", "log2")
    yield replace(row, reason="other documents")
    yield replace(row, value=0.1, reason="point value")
    for verdict, detectable, exploratory in product((1, -1, 0, None), (None, 0.1), (None, True)):
        yield replace(row, **OVER, verdict=verdict, detectable=detectable, exploratory=exploratory)
    yield replace(row, **{**OVER, "p": None, "p_holm": None})
    for other in (0, 1):
        ways = {"svd against svd": InPlace(0), "svd against prefix": InPlace(other)}
        yield replace(row, **OVER, verdict=0, truncations=ways)


def margins():
    for both, (low, high) in product((False, True), ((-0.01, 0.01), (-0.2, 0.2), (-0.3, -0.2))):
        estimate = replace(ESTIMATE, value=(low + high) / 2, low=low, high=high)
        yield MarginTest(0.05, 0.05, both, estimate, None, conditional=True, n_docs=9)


def choices():
    one, two = (
        Configuration("a", "t", "svd", other=False, rank=rank, accuracy=0.5 + rank / 99, needed=0.2)
        for rank in (1, 2)
    )
    every = Choice("t", 0.05, None, 0.05, configurations=(one, two), best=two, needed=0.2)
    yield replace(every, best=None, reason="no documents")
    yield every
    yield replace(every, chosen=one)
    yield replace(every, chosen=one, min_accuracy=0.4)
    yield replace(every, chosen=one, seeds=20, rare_seeds_needed=29)
    yield replace(every, margin=None)
    below = tuple(replace(row, above_base=False, needed=None) for row in (one, two))
    yield replace(every, configurations=below, best=below[1], baseline=0.9, needed=None)
    mixed = (replace(one, needed=None), replace(two, above_base=False, needed=None))
    yield replace(every, configurations=mixed, best=mixed[1], baseline=0.5, needed=None)
    rows = tuple(replace(row, needed=None) for row in (one, two))
    few = replace(every, seeds=5, seeds_needed=12, needed=None, configurations=rows)
    yield from (few, replace(few, margin=None), replace(few, in_checkpoints=one))


def bests():
    row = BestRow("t", 3, 0.95)
    yield replace(row, reason="the adapters were measured at different ranks")
    known = replace(row, leader="a", estimate=ESTIMATE, candidates=("a",), families=("tests",))
    yield known
    yield replace(known, candidates=("a", "b"), untested=("b",), within=0.02, apart=("c",))
    yield replace(known, bounded=("b",))


def sentences():
    for row in pairs():
        yield pair_sentence(row)
        yield depends_sentence(row)
    yield from map(margin_sentence, margins())
    for choice, own in product(choices(), (False, True)):
        yield " ".join(choice_sentences(choice, own=own))
    for row in bests():
        for areas in ({"a": 0.05, "b": 0.04}, {"a": 0.05, "b": 0.05}):
            yield from best_sentences(row, areas)
    yield bounded_sentence(["b"])
    advice = Advice("a", "t", "svd", 0.5, "log2", ("prefix",), ("fit",))
    yield advice_sentence(advice, ["svd"])
    yield advice_sentence(advice, ["svd", "keep"])


@pytest.mark.parametrize("sentence", sorted({*sentences()} - {""}))
def test_the_page_explains_every_kind_of_sentence(sentence):
    assert any(pattern.search(sentence) for pattern in phrases()), sentence
