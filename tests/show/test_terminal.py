"""The closing table: plain when piped, narrow when the terminal is."""

from __future__ import annotations

import io

import pytest
from report_runs import RunMaker, many_curves, results_from, zoo_run
from rich.console import Console

from aurac.curves.display import percent
from aurac.show import terminal_table


def printed(results, width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_table(results_from(results), width=width))
    return stream.getvalue()


def test_every_curve_with_its_ranks_where_there_is_room(tmp_path):
    results = zoo_run(tmp_path, n=50).results()
    text = printed(results, 120)
    assert text.count("matryoshka") == 2
    for name in ("matryoshka (with P)  ", "matryoshka (without P)*  "):
        assert f"\n{name}" in text
    assert "* as published" in text
    for rank in ("base", "r=1", "r=2", "r=4", "r=8", "r=16"):
        assert rank in text
    score = results["curves"][0]["score"]["log2"]
    assert f"{percent(score['value'])} [{percent(score['low'])}, {percent(score['high'])}]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(tmp_path, width):
    lines = printed(zoo_run(tmp_path, n=50).results(), width).splitlines()
    assert max(map(len, lines)) <= width


def test_markup_and_escapes_are_text(tmp_path):
    maker = RunMaker(tmp_path, n=20).add("[red]x[/red]\x1b[2J", [0.3, 0.6], ranks=(1, 2))
    text = printed(maker.results(), 120)
    assert "[red]x[/red]\\u001b[2J" in text


def test_missing_cells_are_counted_with_that_of_the_base_and_once_in_a_group(tmp_path):
    maker = RunMaker(tmp_path, n=20)
    for task in ("part", "whole"):
        maker.add("a", [0.3, 0.6, 0.7], ranks=(1, 2, 4), task=task)
    results = maker.results()
    for curve in results["curves"]:
        curve["accuracy"][1], curve["missing"] = None, {"2": "why"}
    results["tasks"] = [{"name": "part"}, {"name": "whole", "members": ["part"]}]
    results["failures"] = [
        {"adapter": "a", "curve": "a", "task": "part", "rank": 2, "reason": "why"},
        {"adapter": None, "curve": None, "task": "part", "rank": 0, "reason": "why"},
    ]
    assert "2 cells missing" in printed(results, 120)


def test_a_long_run_is_cut_and_says_so(tmp_path):
    text = printed(many_curves(tmp_path, 50, cells=False, n=10).results(), 100)
    assert "10 more rows in table.csv" in text
