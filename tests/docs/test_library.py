"""The page on the library: its code runs, and its columns are those of the frames."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from document_blocks import blocks

import aurac
from aurac.analysis.schema import FRAMES, Advice, Area, Pair, Point
from aurac.curves.question import Key
from scripts import library

ROWS = Area, Point, Pair, Advice
HOW_TO = Path(__file__).parents[2] / "docs" / "howto" / "notebook.md"


def logs(folder: Path) -> None:
    """What lm-eval writes of two adapters at two ranks."""
    draw = np.random.default_rng(0)
    for adapter, level in (("lora", 0.5), ("dylora", 0.3)):
        for rank in (4, 8):
            place = folder / adapter / f"rank_{rank}"
            place.mkdir(parents=True)
            rows = [
                {"doc_id": i, "doc_hash": f"h{i}", "metrics": ["acc"], "acc": float(right)}
                for i, right in enumerate(draw.random(200) < level)
            ]
            text = "\n".join(json.dumps(row) for row in rows)
            (place / "samples_task_2026-01-01T00-00-00.1.jsonl").write_text(text)


def test_the_how_to_runs(monkeypatch, tmp_path):
    """All of it but the evaluation, which the slow tests of the documents do elsewhere."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").symlink_to(HOW_TO.parents[2] / "reports")
    logs(tmp_path / "logs")
    names: dict = {}
    parts = [block.text for block in blocks(HOW_TO) if block.language == "python"]
    ran = [part for part in parts if "aurac.compare(" not in part]
    assert len(ran) == len(parts) - 1 == 3
    for part in ran:
        exec(part, names)
    [pair] = names["found"].records("pairs")
    assert (pair["a"], pair["b"], pair["examples"]) == ("lora", "dylora", 200)
    assert 0.0 < pair["low"] < pair["difference"] < pair["high"] < 0.4
    assert pair["p"] < 0.001
    assert f"{names['score']:.1%}" == "35.2%"
    assert (tmp_path / "report" / "report.html").is_file()


def test_every_column_is_explained_by_its_row():
    docs = "\n".join(inspect.getdoc(row) or "" for row in (Key, *ROWS, *Advice.__mro__[1:3]))
    explained = set(re.findall(r"^ {4}(\w+): ", docs, re.MULTILINE))
    columns = {re.sub("^[ab]_", "", column) for frame in FRAMES.values() for column in frame}
    assert columns == explained


def test_the_reference_is_what_its_command_makes():
    text = library.PAGE.read_text(encoding="utf-8")
    assert text == library.page(), "python -m scripts.library writes it again"
    assert all(f"\n- `{name}" in text for name in aurac.__all__)
