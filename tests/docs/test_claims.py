"""The page on claims has every kind of sentence that is shown of an analysis."""

from __future__ import annotations

import re

import numpy as np
import pytest
from document_blocks import REPOSITORY
from shown import LORA, curve, one, stored, three

from aurac.analysis import Question, analyse
from aurac.show.views import View
from aurac.show.wording import advice, cut_off, not_above_base, verdict

PAGE = " ".join(
    (REPOSITORY / "docs/explain/claims.md").read_text(encoding="utf-8").split()
).replace("`", "")


def analyses():
    yield one(margin=0.05)
    yield one(margin=0.02, n=100)
    yield one(margin=0.1, base=0.6)
    yield one(base=0.6)
    yield one(unfinished={8: 57}, token_limit=48)
    yield one(margin=0.02, clusters=tuple(str(i // 4) for i in range(200)))
    yield three(margin=0.1)
    yield three(reference="dylora")
    yield analyse([curve("a"), curve("b", np.array(LORA) - 0.005)], Question())
    seeds = [curve(f"{name}{seed}", seed=seed) for name in "abc" for seed in (1, 2)]
    groups = {name: [f"{name}1", f"{name}2"] for name in "abc"}
    yield analyse(seeds, Question(margin=0.1, groups=groups))


def sentences():
    for found in analyses():
        of = View(found, "maths")
        yield from filter(None, [verdict(of), not_above_base(of), *cut_off(of)])
        if known := advice(of, stored(found), of.keys[0]):
            yield known.sentence


def kinds(sentence: str) -> set[str]:
    """Pieces of a sentence that do not depend on its numbers and names."""
    parts = re.split(
        r"[\d.,]+|\b(?:a|b|c|lora|dylora|matryoshka)\b|[;:()%]|\bat\b|\band\b", sentence
    )
    return {" ".join(part.split()) for part in parts if len(part.split()) > 1}


@pytest.mark.parametrize("sentence", sorted({*sentences()}))
def test_the_page_explains_every_kind_of_sentence(sentence):
    found = kinds(sentence)
    assert found
    assert [kind for kind in found if kind.lower() not in PAGE.lower()] == []
