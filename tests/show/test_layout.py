"""Tables that are wider than the terminal: every cell stays, and no word is broken."""

from __future__ import annotations

import random

import pytest

from aurac.show.layout import Series, lay_out


def columns(head, *rows):
    return [Series(t, cells) for t, cells in zip(head, zip(*rows, strict=True), strict=True)]


RANKS = [f"r={2**k}" for k in range(9)]


def curves(*names):
    rows = [(name, "prefix/trained", *(f"{10 + i}.{k}" for k in range(9))) for i, name in names]
    return columns(["adapter", "inference", *RANKS], *rows)


def test_what_fits_is_one_table_with_numbers_flush_right():
    text = lay_out(columns(["name", "points [95 %]"], ("a", "1.5 [0, 2]"), ("bb", "10")), 30)
    assert text.split("\n") == [
        "name  points [95 %]",
        "----  -------------",
        "a        1.5 [0, 2]",
        "bb               10",
    ]


def test_characters_that_take_two_columns_count_as_two():
    text = lay_out(columns(["name", "size"], ("適応器", "1.5"), ("b", "2.5")), 80)
    assert text.split("\n")[1:] == ["------  ----", "適応器   1.5", "b        2.5"]


def test_ranks_that_do_not_fit_stand_in_a_block_below_with_the_names_again():
    shown = lay_out(curves((0, "lora"), (1, "matryoshka")), 60)
    blocks = [block.split("\n") for block in shown.split("\n\n")]
    heads = [block[0].split() for block in blocks]
    assert [head[0] for head in heads] == ["adapter"] * len(blocks)
    assert [rank for head in heads for rank in head[1:] if rank.startswith("r=")] == RANKS
    assert len(blocks) == 2
    cells = [line.split()[-1] for block in blocks for line in block[2:4]]
    assert cells[-2:] == ["10.8", "11.8"]
    assert "in all rows: inference = prefix/trained" in shown


def test_cells_fold_between_words_where_that_takes_fewer_lines_than_blocks():
    table = columns(["pair", "points", "reading"], ("a − b", "−1.2 [−3.4, 1.0]", "not shown yet"))
    assert lay_out(table, 34).split("\n") == [
        "pair             points  reading",
        "-----  ----------------  ---------",
        "a − b  −1.2 [−3.4, 1.0]  not shown",
        "                         yet",
    ]


def test_a_terminal_with_room_for_no_column_gets_a_list():
    text = lay_out(columns(["adapter", "size"], ("a_long_name", "1 MB"), ("b", "2 MB")), 12)
    assert text == "adapter:\n  a_long_nam\n  e\n  size: 1 MB\nadapter: b\n  size: 2 MB"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132])
def test_no_cell_is_lost_and_no_line_too_long(width):
    rng = random.Random(width)
    for _ in range(30):
        head = [f"title{i} of it"[: rng.randint(6, 12)] for i in range(rng.randint(1, 9))]
        words = [f"w{i}x" * rng.randint(1, 4) for i in range(10)]
        rows = [
            [" ".join(rng.choices(words, k=rng.randint(0, 5))) if i % 2 else f"{k}{i}.5"
             for i in range(len(head))]
            for k in range(rng.randint(1, 5))
        ]  # fmt: skip
        text = lay_out(columns(head, *rows), width)
        assert max(map(len, text.split("\n"))) <= width
        shown = set(text.replace(";", " ").split())
        assert {word for row in rows for cell in row for word in cell.split()} <= shown
