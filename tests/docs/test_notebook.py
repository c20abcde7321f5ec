"""The notebook in the documents and its how-to: their code runs, and prints what is said."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from document_blocks import blocks

from aurac.analysis.schema import COLUMNS, FRAMES

HOW_TO = Path(__file__).parents[2] / "docs" / "howto" / "notebook.md"
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def cells() -> list[dict]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict) -> str:
    """The text of a cell's outputs."""
    parts = [o["data"]["text/plain"] if "data" in o else o["text"] for o in cell["outputs"]]
    return "".join("".join(part) for part in parts).strip()


def printed(source: str, names: dict) -> str:
    """What a cell prints, and its last expression, as a notebook shows them."""
    lines = ast.parse(source).body
    last = lines.pop() if isinstance(lines[-1], ast.Expr) and source[-1] != ";" else None
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(ast.Module(lines, []), NOTEBOOK.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
            if value is not None:
                shown.write(repr(value))
    return shown.getvalue().strip()


def test_every_cell_gives_what_is_stored(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setenv("COLUMNS", "80")
    plt.close("all")
    names: dict = {}
    for cell in cells():
        source = "".join(cell["source"])
        output = printed(source, names)
        if source.endswith(";"):  # a picture
            assert "image/png" in cell["outputs"][0]["data"]
        else:
            assert output == stored(cell), source
    assert len(plt.get_fignums()) == 1
    plt.close("all")


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
    (tmp_path / "reports").symlink_to(NOTEBOOK.parents[1] / "reports")
    logs(tmp_path / "logs")
    names: dict = {}
    parts = [block.text for block in blocks(HOW_TO) if block.language == "python"]
    ran = [part for part in parts if "aurac.compare(" not in part and "environ" not in part]
    assert len(ran) == len(parts) - 2 == 3
    for part in ran:
        exec(part, names)
    [pair] = names["found"].records("pairs")
    assert (pair["a"], pair["b"], pair["examples"]) == ("lora", "dylora", 200)
    assert 0.0 < pair["low"] < pair["difference"] < pair["high"] < 0.4
    assert pair["p"] < 0.001
    assert f"{names['score']:.1%}" == "35.2%"
    assert (tmp_path / "report" / "report.html").is_file()


def table() -> str:
    """Every column in Markdown, for the documents."""
    lines = ["| column | in | type | meaning |", "|---|---|---|---|"]
    kinds = {str: "text", int: "integer", float: "number", bool: "true or false"}
    for name, (kind, meaning) in COLUMNS.items():
        where = ", ".join(each for each, columns in FRAMES.items() if name in columns)
        lines.append(f"| `{name}` | {where} | {kinds[kind]} | {meaning} |")
    return "\n".join(lines)


def test_the_columns_are_those_of_the_frames():
    assert table() in HOW_TO.read_text(encoding="utf-8")
