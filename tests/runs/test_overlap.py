"""Examples of a task that the training data have, too, are counted and said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from harness_doubles import write_jsonl
from support.small_runs import run_small

import aurac
from aurac.adapters import load_adapter, save_adapter
from aurac.cli import cli
from aurac.errors import DataError
from aurac.training import make_recipe
from aurac.training.data import identified

HELD_OUT = [{"prompt": f"Tom has {n}", "completion": f" {n}<eos>"} for n in range(5)]
SAID = (
    "own: 2 of 5 examples are in the training data of {names} ({data}), 1 more with another "
    "completion. A score on examples that were trained on does not hold for new ones."
)
COUNTS = {"task": "own", "examples": 5, "same": 2, "prompts": 1}


@pytest.fixture
def task(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", HELD_OUT)


def test_a_file_that_adapters_were_trained_on_is_looked_through(adapters, task, tmp_path):
    trained = [HELD_OUT[0], {"prompt": "Tom has 3 ", "completion": "3"}]
    trained += [{"prompt": "Tom has 4", "completion": " 5"}, {"prompt": "Ada", "completion": " 0"}]
    data = str(write_jsonl(tmp_path / "train.jsonl", trained))
    run_small([adapters["lora"], adapters["dylora"]], tmp_path / "r", task, trained_on=data)
    run = aurac.load_run(tmp_path / "r")
    said = SAID.format(names="lora and dylora", data=data)
    assert said in " ".join(str(run).split())
    run.report()
    assert said in (tmp_path / "r" / "report.html").read_text()
    found = [COUNTS | {"adapter": name, "data": data} for name in ("lora", "dylora")]
    assert json.loads((tmp_path / "r" / "analysis.json").read_text())["overlaps"] == found
    words = ["recommend", tmp_path / "r", "--margin", "0.5", "--json"]
    assert json.loads(CliRunner().invoke(cli, map(str, words)).stdout)["overlaps"] == found
    write_jsonl(tmp_path / "train.jsonl", trained[-1:])
    again = run_small(adapters["lora"], tmp_path / "r", task, trained_on=data)
    said = f"own: none of 5 examples is in the training data of lora ({data})."
    assert said in " ".join(str(again).split())
    write_jsonl(tmp_path / "train.jsonl", [{"question": "a"}])
    with pytest.raises(DataError, match="need prompt and completion"):
        run_small(adapters["lora"], tmp_path / "no", task, trained_on=data)
    assert not (tmp_path / "no").exists()


def test_an_adapter_of_aurac_train_knows_its_data(adapters, task, tmp_path, monkeypatch, caplog):
    """The last row is held out of the training, and the one before it has another number."""
    monkeypatch.chdir(tmp_path)
    rows = [{"n": 0, "own": 0}, {"n": 1, "own": 1}, {"n": 2, "own": 7}, {"n": 3, "own": 3}]
    write_jsonl(tmp_path / "numbers.jsonl", rows)
    words = {"prompt": "Tom has {n}", "target": " {own}", "rank": 4, "validation": 1}
    recipe = identified(
        make_recipe({"name": "x", "method": "lora", "data": "numbers.jsonl", **words})
    )
    recorded = recipe.to_dict() | {"sha256": recipe.sha256}
    mine = replace(load_adapter(adapters["lora"]), name="mine", recipe=recorded, seed=1)
    folder = save_adapter(mine, tmp_path / "mine")
    run = run_small([folder], tmp_path / "run", task)
    said = SAID.format(names="mine", data="numbers.jsonl")
    assert said in " ".join(str(run).split())
    write_jsonl(tmp_path / "numbers.jsonl", rows[1:])
    run_small([folder], tmp_path / "other", task)
    assert "mine: its training data cannot be looked at (the data numbers.jsonl have" in caplog.text
    assert aurac.load_run(tmp_path / "other").overlaps == []
