"""What notebooks show: whole, escaped, well-formed, and light."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from aurac.curves.curve import Curve
from aurac.curves.display import count, decimals, percent, picture, points, size

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></svg><b>out</b>",
    "a\u202eb",
    "$x$ & `y` \x1b[31m",
]
EMPTY = {"br", "img", "hr"}


class Page(HTMLParser):
    """Tags in order; fails on a tag that closes another one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.shown = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data


def curve(name: str = "mine", **labels) -> Curve:
    rng = np.random.default_rng(3)
    outcomes = rng.random((3, 40)) < np.array([[0.3], [0.5], [0.7]])
    return Curve.from_outcomes(
        (1, 4, 16), outcomes.astype(float), adapter=name, task="sums", baseline=0.1, **labels
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name):
    plain = curve(name, metric=name, base=name)
    broken = Curve((1, 2), (0.1, 0.2), adapter=name, missing={4: name})
    shown = [plain._repr_html_(), broken._repr_html_()]
    for text in shown:
        page = Page(text)
        assert set(page.tags) <= {
            *("div", "p", "strong", "bdi", "img", "table", "thead", "tbody", "tr", "th", "td"),
            *("ul", "li"),
        }
        assert {attribute for attribute, _ in page.attributes} <= {"alt", "src", "style"}
        sources = [value for attribute, value in page.attributes if attribute == "src"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
    page = Page(plain._repr_html_())
    visible = name.replace("\u202e", r"\u202e").replace("\x1b", r"\u001b")
    assert visible in page.shown  # the name itself, with what cannot be seen spelled out


def test_halves_are_rounded_away_from_zero_whatever_the_last_bits():
    """A weighted sum of 0.9375 is 0.93749999…, and Python rounds 93.25 to its even neighbour."""
    noisy = 0.9375 * (0.125 + 0.25 + 0.25 + 0.25) + 0.9375 * 0.125 - 2e-16
    assert [percent(v) for v in (noisy, 0.9375, 0.9325, -0.0125, 0.0005)] == (
        ["93.8", "93.8", "93.3", "−1.3", "0.1"]
    )
    assert [percent(v, 0) for v in (0.005, 0.025, 0.0149)] == ["1", "3", "1"]
    assert percent(0.934999) == "93.5"
    assert percent(0.9344) == "93.4"
    assert [size(n) for n in (2_250_000, 12_500, 3)] == ["2.3 MB", "13 kB", "3 B"]
    assert [count(n) for n in (2.5, 1_234_567)] == ["3", "1\u00a0234\u00a0567"]
    assert [decimals(x, 1) for x in (float("inf"), float("nan"))] == ["inf", "nan"]


def test_percent_and_points_have_one_form():
    assert [percent(v) for v in (0.39149, -0.0123, -0.0001, None)] == ["39.1", "−1.2", "0.0", "–"]
    assert [points(v) for v in (0.02, 0.01, 0.016, -0.1)] == [
        "2 points", "1 point", "1.6 points", "−10 points",
    ]  # fmt: skip


def test_curve_shows_every_number_and_where_one_is_missing():
    broken = Curve((1, 2), (0.125, 0.25), adapter="a", missing={4: "it crashed"})
    page = Page(broken._repr_html_())
    for word in ("12.5", "25.0", "it crashed", "no per-document outcomes"):
        assert word in page.shown


def test_a_picture_is_described_and_any_curve_can_be_drawn():
    label = dict(Page(picture([("a", (1, 2, 4), (0.2, None, 0.8))], 0.1)).attributes)["alt"]
    assert label == "Accuracy against rank. a: 20.0 % at rank 1, 80.0 % at rank 4"
    assert picture([("a", (), ())]) == ""
    for curves in ([("a", (3,), (0.5,))], [("a", (1, 2), (0.0, 0.0))], [("a", (1,), (None,))]):
        assert picture(curves).startswith("<img")


def test_plain_text_does_not_spell_out_every_document():
    assert len(repr(curve())) < 600
    assert not re.search(r"outcomes=array", repr(curve()))
