"""On a real terminal: tables and bars are drawn in place, and names of files stay text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from aurac.curves.display import percent
from aurac.terminal import spelled

pytest.importorskip("pty", reason="needs a pseudo-terminal")

from pseudo_terminal import on_a_terminal
from small_runs import TASK, random_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from pseudo_terminal import Terminal

# Clears the screen, sets the title, changes the colour with a C1 control, rings.
EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc"


def assert_clean(found: Terminal) -> None:
    """The program's own control codes were acted upon, those of names were not."""
    assert b"\\u001b[2K" not in found.sent
    assert b"\\u001b[?25" not in found.sent
    assert b"\\u000d" not in found.sent
    assert (found.screen.cleared, found.screen.title) == (0, "")
    assert not found.screen.cursor.hidden


@pytest.fixture(scope="module")
def evil_adapter(tiny_base_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / EVIL
    return random_adapter(tiny_base_folder, folder, name=EVIL)


@pytest.fixture(scope="module")
def compared(evil_adapter, tmp_path_factory) -> tuple[Terminal, Path]:
    out = tmp_path_factory.mktemp("runs") / "run"
    command = ["-m", "aurac", "compare", str(evil_adapter), "--tasks", TASK, "--limit", "3"]
    command += ["--basis", "prefix", "--dtype", "float32", "--device", "cpu", "--out", str(out)]
    return on_a_terminal(command), out


def test_compare_fills_in_a_table_of_curves(compared):
    """Every frame has one table and one bar; a number that is there stays; the results follow."""
    found, out = compared
    assert found.status == 0, found.lines
    assert_clean(found)
    assert found.screen.was_hidden
    frames = [frame for frame in found.frames() if any("accuracy, %" in line for line in frame)]
    known = []
    for frame in frames:
        assert sum("accuracy, %" in line for line in frame) == 1, frame
        assert sum("left" in line and "%" in line for line in frame) <= 1, frame
        row = frame[next(k for k, line in enumerate(frame) if "accuracy, %" in line) + 1]
        assert "prefix" not in row
        numbers = re.findall(r"\d+\.\d", row)
        assert len(numbers) >= len(known)
        known = numbers
    [curve] = json.loads((out / "results.json").read_text())["curves"]
    accuracies = [curve["baseline"], *curve["accuracy"]]
    assert known == [percent(accuracy) for accuracy in accuracies]
    text = "\n".join(found.lines)
    assert found.lines[0].startswith("loading ")
    assert text.count("4 of 4 cells to compute") == 1
    assert "accuracy, %" not in text
    assert "4 of 4 cells finished in" in text
    assert "report" in found.lines[-2]
    assert found.lines[-1].startswith("next: aurac recommend ")


def test_a_hostile_name_stays_text_on_a_terminal(compared):
    found, _ = compared
    text = "".join(found.lines)
    assert re.search(r"a\\(x|u00)1b\[2J", text)
    assert b"\x1b[2J" not in found.sent
    assert b"\x1b]0;" not in found.sent


def test_train_draws_one_bar_in_place(tiny_base_folder, tmp_path):
    documents = tmp_path / "train.jsonl"
    rows = [
        {"question": f"how many apples has Mia {a} + 1", "answer": f"{a} + 1 = #### 1"}
        for a in range(8)
    ]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    values = {
        "name": EVIL,
        "method": "lora",
        "rank": 4,
        "base": str(tiny_base_folder),
        "data": str(documents),
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "dtype": "float32",
    }
    recipe.write_text(json.dumps(values))
    found = on_a_terminal(["-m", "aurac", "train", str(recipe), "--out", str(tmp_path / "out")])
    assert found.status == 0, found.lines
    assert_clean(found)
    bars = [line for line in found.lines if "20/20" in line]
    assert len(bars) == 1, found.lines
    assert not [line for line in found.lines if re.search(r"\b1?\d/20", line)]
    assert spelled("a\x1b[2J") in bars[0]
    assert found.screen.was_hidden


def test_cost_draws_one_bar_with_the_time_left(evil_adapter):
    command = ["-m", "aurac", "cost", str(evil_adapter), "--device", "cpu", "--dtype", "float32"]
    command += ["--prompt-tokens", "4", "--new-tokens", "2", "--repeats", "4", "--ranks", "1,4"]
    found = on_a_terminal(command)
    assert found.status == 0, found.lines
    assert_clean(found)
    frames = [[line for line in frame if "measuring" in line] for frame in found.frames()]
    assert max(map(len, frames)) == 1
    bars = [bar for frame in frames for bar in frame]
    assert any(re.search(r" [1-9]\d*/15 0:00:\d\d$", bar) for bar in bars), bars
    assert "15/15" in next(line for line in found.lines if "measuring" in line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "RUN"],
        ["report", "RUN"],
        ["recommend", "RUN", "--delta", "0.1"],
        ["export", "RUN", "--out", "OUT"],
        ["inspect", "ADAPTER"],
        ["truncate", "ADAPTER", "--rank", "2", "--out", "OUT"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_other_commands_leave_the_terminal_as_it_was(compared, evil_adapter, tmp_path, arguments):
    _, run = compared
    places = {"RUN": str(run), "OUT": str(tmp_path / "out"), "ADAPTER": str(evil_adapter)}
    found = on_a_terminal(["-m", "aurac", *(places.get(word, word) for word in arguments)])
    assert found.status == 0, found.lines
    assert_clean(found)
