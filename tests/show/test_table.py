"""Tables as plain text."""

from __future__ import annotations

from aurac.show.table import text_table


def test_tables_fold_on_a_narrow_terminal_and_lose_nothing():
    head = ["adapter", "difference", "gained/lost"]
    rows = [["b - a", "+0.0400 [+0.0100, +0.0700]", "1:+3/-2 2:+4/-4 4:+5/-1 8:+9/-3"]]
    table = text_table(head, rows)
    assert len(table.plain(120).splitlines()) == 3
    narrow = table.plain(30)
    assert max(map(len, narrow.splitlines())) <= 30
    assert {*" ".join([*head, *rows[0]]).split()} <= {*narrow.split()}
