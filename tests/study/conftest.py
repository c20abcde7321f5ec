"""A study of a tiny random base, as a file to write."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml


@pytest.fixture(scope="module", autouse=True)
def _plain(plain_figures):
    """No test of a study looks at more of a figure than its texts."""


@pytest.fixture
def content(tiny_base_folder, tmp_path):
    rows = [{"question": f"Mia has {a}", "answer": str(a)} for a in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"rank": 4, "steps": 2, "batch_size": 4, "dtype": "float32", "max_tokens": 32}
    task = {
        "task": "aurac_word_problems_mc",
        "recipe": {"data": "train.jsonl"},
        "options": {"dtype": "float32"},
        "validation": {"split": "validation", "limit": 6},
        "test": {"limit": 12},
    }
    return {
        "name": "tiny",
        "question": "Is one method better?",
        "base": str(tiny_base_folder),
        "recipe": recipe,
        "tasks": {"choice": task},
        "methods": {
            "lora": {
                "recipe": {"method": "lora"},
                "learning_rates": [0.01],
                "basis": ["prefix", "svd"],
            },
            "matryoshka": {"recipe": {"method": "matryoshka"}, "rescale": ["trained", "rule"]},
            "per_rank": {"recipe": {"method": "lora"}, "family": True},
        },
        "learning_rates": [0.003, 0.01, 0.03],
        "seeds": [1, 2, 3],
        "search_seed": 1,
    }


@pytest.fixture
def write(tmp_path, content):
    def make(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return make


@pytest.fixture
def small(write, content):
    """A study without a search: an adapter of LoRA by prefix, a family of rank 1 and that one."""

    def make(**changes):
        lora = {"recipe": {"method": "lora"}, "learning_rates": [0.01]}
        methods = {"lora": lora, "per_rank": content["methods"]["per_rank"]}
        few = {"methods": methods, "seeds": [1], "ranks": "1,4", "basis": ["prefix"]}
        return write(**{**few, **changes})

    return make


@pytest.fixture
def sums(content, tmp_path):
    """A task of its own with a YAML file and documents beside the study."""
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    definition = {
        "task": "sums",
        "dataset_path": "json",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": 0,
        "doc_to_choice": "{{[answer, 'none']}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(definition))
    options = {"dtype": "float32", "data": {"sums": "."}}
    return {**content["tasks"]["choice"], "task": "sums.yaml", "options": options}
