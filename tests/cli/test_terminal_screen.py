"""On a real terminal: bars are drawn in place, and names of files stay text."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pty", reason="needs a pseudo-terminal")

from pseudo_terminal import on_a_terminal
from small_runs import TASK, random_adapter

# Clears the screen, sets the title, changes the colour with a C1 control, rings.
EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc"


@pytest.mark.parametrize(("command", "last"), [("compare", "report: "), ("train", "next: aurac")])
def test_a_bar_is_drawn_in_place_and_then_the_answer(tiny_base_folder, tmp_path, command, last):
    if command == "compare":
        adapter = random_adapter(tiny_base_folder, tmp_path / EVIL, name=EVIL)
        words = [str(adapter), "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    else:
        values = {"base": tiny_base_folder, "dtype": "float32", "documents": 8}
        values |= {"steps": 20, "batch_size": 4, "rank": 4}
        words = ["word_problems/lora", *(f"--set={name}={v}" for name, v in values.items())]
    words = ["-m", "aurac", command, *words, "--device", "cpu"]
    found = on_a_terminal([*words, "--out", str(tmp_path / "out")])
    assert found.status == 0, found.lines
    assert found.screen.was_hidden == (command == "compare")  # transformers' bar hides nothing
    assert (found.screen.cursor.hidden, found.screen.cleared, found.screen.title) == (False, 0, "")
    assert not re.search(rb"\x1b\[2J|\x1b\]0;|\\u000d", found.sent)
    drawn = [line for frame in found.frames() for line in frame]
    bar = "━" if command == "compare" else "█"  # of rich, and of tqdm
    assert any(bar in line for line in drawn)
    assert len([line for line in found.lines if bar in line]) <= 1
    text = "\n".join(found.lines)
    assert command == "train" or re.search(r"a\\(x|u00)1b\[2J", text)
    assert last in text
