"""The notebook in the documents: its cells run, and print what is stored beside them."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest

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
