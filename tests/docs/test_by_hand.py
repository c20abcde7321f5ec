"""The mission by hand, with PEFT, lm-eval and numpy alone, equals `compare`."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from harness_doubles import (
    make_model,
    make_tokenizer,
    simple_evaluate,
    stay_offline,
    write_choice_task,
    write_jsonl,
)
from support.adapters import save_with_peft

import aurac

FILE = Path(__file__).parents[2] / "docs" / "by_hand.py"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A base, an adapter and a task of whose examples the adapter answers nearly all right."""
    from lm_eval.models.huggingface import HFLM

    stay_offline(monkeypatch, tmp_path / "hf")
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    make_model(1).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    modules = ["q_proj", "v_proj", "down_proj"]
    how = {"r": 4, "lora_alpha": 16, "target_modules": modules}
    adapted = save_with_peft(make_model(1), tmp_path / "lora", **how)
    path = write_choice_task(tmp_path / "tasks", rows=40)
    data = path.parent / "tiny_choice_data" / "test.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:  # equally long, so that the base does not choose by length
        row["choices"]["text"] = [f"{text[0]}x" for text in row["choices"]["text"]]
    write_jsonl(data, rows)
    lm = HFLM(pretrained=adapted.eval(), tokenizer=make_tokenizer(), batch_size=16)
    for sample in simple_evaluate(path, lm)["samples"]["tiny_choice"][:38]:
        best = int(np.argmax([float(pair[0]) for pair in sample["filtered_resps"]]))
        rows[sample["doc_id"]]["answerKey"] = "ABCD"[best]
    write_jsonl(data, rows)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("plain_figures")
def test_the_numbers_are_those_of_compare(world):
    margin = 0.3
    names: dict = {}
    exec(compile(FILE.read_text(encoding="utf-8"), FILE.name, "exec"), names)
    place = str(world / "tasks")
    found = names["by_hand"](
        str(world / "base"), str(world / "lora"), "tiny_choice", place, margin=margin
    )
    run = aurac.compare(
        [world / "lora"], ["tiny_choice"], base=str(world / "base"), include_path=place,
        out=world / "run", dtype="float32", device="cpu", margin=margin,
    )  # fmt: skip
    assert found["accuracy"] == pytest.approx(run.points.set_index("rank").accuracy.to_dict())
    row = run.scores.iloc[0]
    assert found["aurac"] == pytest.approx((row.aurac, row.low, row.high), abs=2e-5)
    assert found["ship"] == run.recommended["rank"].iloc[0] == 4
    assert found["accuracy"][4] > 0.9


def test_it_needs_neither_aurac_nor_another_library():
    tree = ast.walk(ast.parse(FILE.read_text(encoding="utf-8")))
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))]  # fmt: skip
    roots = {name.partition(".")[0] for name in names}
    assert roots == {"sys", "lm_eval", "numpy", "torch", "peft", "transformers"}
