"""On a real terminal: bars are drawn in place, and names of files stay text."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pty", reason="needs a pseudo-terminal")

from pseudo_terminal import on_a_terminal
from small_runs import TASK, random_adapter

# Clears the screen, sets the title, changes the colour with a C1 control, rings.
EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc"


def test_compare_draws_a_bar_and_then_the_answer(tiny_base_folder, tmp_path):
    adapter = random_adapter(tiny_base_folder, tmp_path / EVIL, name=EVIL)
    command = ["-m", "aurac", "compare", str(adapter), "--tasks", TASK, "--limit", "3"]
    command += ["--dtype", "float32", "--device", "cpu", "--out", str(tmp_path / "run")]
    found = on_a_terminal(command)
    assert found.status == 0, found.lines
    assert found.screen.was_hidden  # while the bar was drawn
    drawn = [line for frame in found.frames() for line in frame]
    assert drawn[0].endswith("loading torch and lm-eval …")
    assert not found.screen.cursor.hidden
    assert (found.screen.cleared, found.screen.title) == (0, "")
    assert b"\x1b[2J" not in found.sent
    assert b"\x1b]0;" not in found.sent
    text = "\n".join(found.lines)
    assert re.search(r"a\\(x|u00)1b\[2J", text)
    assert "rank" in text
    assert "report: " in text


def test_train_draws_its_bar_in_place(tiny_base_folder, tmp_path):
    values = {"base": tiny_base_folder, "documents": 8, "steps": 20, "batch_size": 4, "rank": 4}
    command = ["-m", "aurac", "train", "word_problems/lora", "--out", str(tmp_path / "out")]
    for name, value in (values | {"dtype": "float32"}).items():
        command += ["--set", f"{name}={value}"]
    found = on_a_terminal(command)
    assert found.status == 0, found.lines
    assert b"\\u000d" not in found.sent
    assert len([line for line in found.lines if "20/20" in line]) <= 1
    drawn = "\n".join(line for frame in found.frames() for line in frame)
    assert re.search(r"^out.* ━.*/", drawn, re.MULTILINE)
    assert "{'" not in drawn
    assert "\nnext: aurac compare " in "\n".join(found.lines)
