"""Whatever a name holds, the terminal shows it as text: no command moves the cursor."""

from __future__ import annotations

import io
import json
import re
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aurac.cli import cli
from aurac.terminal import spelled, visible_output

# Clear the screen, set the title, a C1 control sequence, right-to-left override, delete, bell.
EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\x7fe"
SHOWN = "a\\u001b[2J\\u001b]0;title\\u0007b\\u009b31mc\\u202ed\\u007fe"


def harmless(text: str) -> bool:
    return all(char in {"\n", "\t"} or char.isprintable() for char in text)


def test_names_are_shown_spelled_out_and_kept_in_json(tmp_path):
    draw, path, before = np.random.default_rng(0), tmp_path / "table.csv", sys.stdout
    rows = [
        f"{name},{EVIL},{rank},{example},{score}"
        for name in (EVIL, "plain")
        for rank in (1, 2)
        for example, score in enumerate(draw.integers(0, 2, 80))
    ]
    path.write_text("\n".join(["adapter,task,rank,doc_id,score", *rows]), encoding="utf-8")
    for words in (["--margin", "0.1"], ["--group", f"x={EVIL}x"], ["--json"], []):
        # On a pipe click leaves colours and the like out; on a terminal all is spelled out.
        done = CliRunner().invoke(cli, ["score", str(path), *words], color=True)
        assert harmless(done.output), repr(done.output)
        if words == ["--json"]:
            assert json.loads(done.output)["scores"][0]["adapter"] == EVIL
    assert SHOWN in done.output
    assert sys.stdout is before


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
