"""What a terminal of 80 columns and 24 lines shows of the runs that come with the sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="needs a pseudo-terminal")

from pseudo_terminal import on_a_terminal

REPORTS = Path(__file__).parents[2] / "reports"
RANKS = {"1", "2", "4", "8", "16"}


def shown(*arguments: object, status: int = 0, columns: int = 80) -> list[str]:
    """The lines that a command sends, none of which the terminal has to break."""
    found = on_a_terminal(["-m", "aurac", *map(str, arguments)], size=(columns, 24))
    assert found.status == status, found.sent
    lines = re.sub(r"\x1b\[[\d;]*m", "", found.sent.decode()).replace("\r", "").split("\n")
    assert max(map(len, lines)) <= columns, [line for line in lines if len(line) > columns]
    return lines


def ranks(lines: list[str]) -> list[str]:
    return [rank for line in lines if "adapter" in line for rank in re.findall(r"r=(\d+)", line)]


@pytest.mark.parametrize(
    ("run", "pair"),
    [
        ("word_problems", r"lora \(SVD\) − dylora"),  # the larger one first
        ("study/results/mawps", r"dylora − lora \(prefix\)"),  # as it was declared
    ],
)
def test_score_shows_every_rank_once_and_a_pair_in_a_line(run, pair):
    lines = shown("score", REPORTS / run)
    text = "\n".join(lines)
    assert len(ranks(lines)) == len(RANKS)
    assert set(ranks(lines)) == RANKS
    assert re.search(r"in all rows: base = \d|^adapter .* base .* r=1 ", text, re.MULTILINE)
    assert any(line.endswith("  reading") for line in lines)
    assert any(line.startswith("reading: the better one") for line in lines)
    assert re.search(rf"^{pair} .*\d\]", text, re.MULTILINE)
    assert re.findall(r"(\S) depends on the truncation", text) == ["§"]  # * is "as published"
    assert any(line.endswith(" §") for line in lines)
    for word in ("matryoshka (with P) ", "lora (SVD)", "has the largest AURAC"):
        assert word in text
    assert len(lines) <= 60
    for line in lines:  # a curve has the name of the report
        assert "prefix/" not in line
        assert " · " not in line


@pytest.mark.parametrize("columns", [80, 120])
def test_recommend_answers_first_and_on_one_screen(columns):
    """The sentence, the command and the trade-off; each adapter by itself is a detail."""
    given = ["recommend", REPORTS / "word_problems", "--margin", "0.15"]
    lines = shown(*given, columns=columns)
    assert len(lines) <= 20
    assert lines[0].startswith("Ship lora (SVD) at rank 4 on aurac_word_problems: 2.4 MB, acc")
    command = next(at for at, line in enumerate(lines) if line.startswith("aurac truncate "))
    assert "Size against accuracy" in lines[command + 3 + (columns == 80)]
    rows = [line for line in lines if re.match(r"\S+ \(.+\) at rank \d+ ", line)]
    assert [row.split("  ")[0] for row in rows][2:] == [
        "lora (SVD) at rank 4",
        "matryoshka (with P) at rank 16",
    ]
    details = shown(*given, "--details", columns=columns)
    assert not any("use rank" in line for line in lines)
    assert any("use rank" in line and "size" in line for line in details)
    for row in ("2 of 16", "16 of 16"):
        assert row in "\n".join(details)


def test_without_a_margin_recommend_shows_what_each_needs():
    plain = shown("recommend", REPORTS / "word_problems")
    assert len(plain) <= 20
    [row] = [line for line in plain if line.startswith("lora (SVD) at rank 4")]
    assert row.split()[-2:] == ["67.4]", "14.14"]


@pytest.mark.parametrize(
    ("command", "row"),
    [
        (["zoo", REPORTS.parent / "adapters_zoo"], "matryoshka"),
        (["train", "--list"], "word_problems/matryoshka"),
        (["inspect", REPORTS.parent / "adapters_zoo/word_problems/lora", "--ranks", "1,4"], "4 "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_lists_have_rows_and_not_a_line_for_each_cell(command, row):
    lines = shown(*command)
    assert any(row in line and re.search(r"\s{2,}\S", line.strip()) for line in lines), lines
    assert not any(line.startswith("  ") and ": " in line for line in lines)
