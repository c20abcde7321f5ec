"""Whatever a name holds, the terminal shows it as text: no command moves the cursor."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import aurac
from aurac.cli import cli
from aurac.terminal import spelled, visible_output

ROOT = Path(aurac.__file__).parents[1]
# Clear the screen, set the title, a C1 control sequence, right-to-left override, delete, bell.
EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\x7fe"
SHOWN = "a\\u001b[2J\\u001b]0;title\\u0007b\\u009b31mc\\u202ed\\u007fe"


def harmless(text: str) -> bool:
    return all(char in {"\n", "\t"} or char.isprintable() for char in text)


@pytest.fixture
def table(tmp_path) -> Path:
    draw = np.random.default_rng(0)
    rows = ["adapter,task,rank,doc_id,score"]
    for name in (EVIL, "plain"):
        for rank in (1, 2):
            scores = draw.integers(0, 2, 80)
            rows += [f"{name},{EVIL},{rank},{d},{s}" for d, s in enumerate(scores)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "TABLE", "--margin", "0.1"],
        ["score", "TABLE", "--group", f"x={EVIL}x"],
    ],
)
def test_commands_print_no_control_character(table, arguments):
    done = CliRunner().invoke(cli, [str(table) if a == "TABLE" else a for a in arguments])
    assert harmless(done.output), repr(done.output)


def test_names_are_shown_spelled_out_and_kept_in_json(table):
    done = CliRunner().invoke(cli, ["score", str(table)])
    # On a pipe click leaves colours and the like out; on a terminal all is spelled out.
    assert "b\\u009b31mc\\u202ed\\u007fe" in done.output
    assert harmless(done.output)
    done = CliRunner().invoke(cli, ["score", str(table)], color=True)
    assert SHOWN in done.output
    done = CliRunner().invoke(cli, ["score", str(table), "--json"])
    assert harmless(done.output)
    assert json.loads(done.output)["scores"][0]["adapter"] == EVIL


def test_an_error_is_spelled_out_and_streams_are_given_back(table):
    before = sys.stdout, sys.stderr
    CliRunner().invoke(cli, ["score", str(table)])
    assert (sys.stdout, sys.stderr) == before
    for word, said in (("\x1b[2Jnowhere.csv", "\\u001b[2Jnowhere.csv"), ("--\x1b[2J", "")):
        command = [sys.executable, "-m", "aurac", "score", word]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert harmless(done.stderr)


@given(st.text(st.characters(), max_size=40))
def test_spelled_text_is_harmless_and_the_same_in_json(text):
    kept = "".join(char for char in text if char.isprintable() or char in "\n\t")
    assert spelled(kept) == kept or any(ord(c) >= 0xE000 for c in kept)
    shown = spelled(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode("utf-8")  # unpaired surrogates are spelled out


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "−é≤ √"), ("cp1252", "-é<= \\u221a"), ("ascii", "-\\xe9<= \\u221a")],
)
def test_what_a_stream_cannot_encode_is_replaced(encoding, written, monkeypatch):
    under = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", under)
    with visible_output():
        click.echo("−é≤ √")
        sys.stdout.write("−é≤ √\n")
    under.flush()
    assert under.buffer.getvalue().decode(encoding).splitlines() == [written, written]
