"""A recipe of a tiny random base, its data, and a PEFT model with a trained-looking adapter."""

from __future__ import annotations

import json

import pytest

from aurac.training import make_recipe


@pytest.fixture
def documents(tmp_path):
    rows = [
        {"question": f"how many apples has Mia {a} + {b}", "answer": f"{a} + {b} = #### {b}"}
        for a in range(10)
        for b in range(6)
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def recipe(tiny_base_folder, documents):
    def make(method="matryoshka", **values):
        settings = {
            "name": "tiny",
            "method": method,
            "rank": 4,
            "base": str(tiny_base_folder),
            "data": str(documents),
            "steps": 6,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "dtype": "float32",
            "seed": 3,
        }
        return make_recipe(settings | values)

    return make
