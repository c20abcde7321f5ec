"""Escaping: what was hostile has to come out as text, in each format."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurac.show import escape
from aurac.terminal import one_line


def test_one_line_cuts_in_the_middle_and_keeps_no_break_spaces():
    assert one_line("a\n b\t c") == "a b c"
    assert one_line("95\u00a0%") == "95\u00a0%"
    assert one_line("abcdefghijkl", 9) == "abcde…jkl"
    assert len(one_line("x" * 500, 24)) == 24


@pytest.mark.parametrize(
    ("given_text", "written"),
    [
        ("a|b", "a&#124;b"),
        ("`x`", "\\`x\\`"),
        ("[x](javascript:1)", "\\[x\\](javascript:1)"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("a & b", "a &amp; b"),
        ("snake_case", "snake\\_case"),
        ("*b* ~~s~~", "\\*b\\* \\~\\~s\\~\\~"),
        ("# head", "\\# head"),
        ("1. item", "1\\. item"),
        ("- item", "\\- item"),
        ("---", "\\---"),  # alone it would be a rule
        ("-3.5", "-3.5"),
        ("3.5 and 4.5 - 1", "3.5 and 4.5 - 1"),
        ("https://x.test", "https\\://x.test"),
        ("www.x.test", "www\\.x.test"),
        ("@user $x$", "&#64;user &#36;x&#36;"),
    ],
)
def test_markdown(given_text, written):
    assert escape.markdown(given_text) == written


def test_markdown_fence_is_longer_than_what_it_holds():
    fenced = escape.markdown_fence("a ```` b", 100)
    assert fenced == "`````text\na ```` b\n`````"
    assert "(95 more characters)" in escape.markdown_fence("x" * 100, 5)


@pytest.mark.parametrize(
    ("given_text", "written"),
    [
        ("50% & #1_$x^2$", r"50\% \& \#1\_\$x\textasciicircum{}2\$"),
        ("\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a--b", "a{-}{-}b"),
        ("naïve", "naïve"),
        ("很", "U+5F88"),
        ("x · y", r"x \textperiodcentered{} y"),
    ],
)
def test_latex(given_text, written):
    assert escape.latex(given_text) == written


@given(st.text(min_size=1))
def test_latex_has_no_bare_special(text):
    written = escape.latex(text)
    stripped = re.sub(r"\\[a-zA-Z]+(\{\}|\{-\}|\{\\times\})|\\[{}$&#_%]|\{-\}", "", written)
    assert not re.search(r"[\\{}$&#%~^_]", stripped)


def test_csv_text_is_no_formula_and_numbers_stay_numbers():
    for start in "=+-@|%":
        assert escape.csv_cell(f"{start}cmd()") == f"'{start}cmd()"
    assert escape.csv_cell("  =b") == "'=b"  # a spreadsheet would skip the spaces
    assert escape.csv_cell("a\n=b") == "a =b"
    assert escape.csv_cell(-0.5) == -0.5
    assert escape.csv_cell(None) == ""


def test_slug_cannot_leave_the_folder():
    assert escape.slug("../../etc/passwd") == "etc-passwd"
    assert escape.slug("GSM8K (v2)") == "gsm8k-v2"
    assert escape.slug("很") == "task"
