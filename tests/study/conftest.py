"""A study in a folder with training data, on a tiny random base."""

from __future__ import annotations

import json

import pytest
import yaml

from aurac.study import load_study

SETTINGS = {
    "name": "s",
    "seeds": [1, 2],
    "recipe": {"rank": 4, "steps": 2, "batch_size": 4, "dtype": "float32", "data": "train.jsonl"},
    "options": {"dtype": "float32"},
}


@pytest.fixture
def written(tmp_path, tiny_base_folder):
    """Writes the file of a study; gives the study."""
    rows = [{"question": f"Mia {a} + 1", "answer": f"{a}"} for a in range(8)]
    for name, used in (("train", rows), ("other", rows[1:])):
        lines = "".join(json.dumps(row) + "\n" for row in used)
        (tmp_path / f"{name}.jsonl").write_text(lines)

    def write(content):
        path = tmp_path / "study.yaml"
        content = {**SETTINGS, "base": str(tiny_base_folder), **content}
        path.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
        return load_study(path)

    return write
