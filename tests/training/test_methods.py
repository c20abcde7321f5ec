"""Methods of other packages: the example of docs/howto/method.md, installed as one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from aurac.adapters import load_adapter
from aurac.adapters.methods import (
    _KNOWN,
    Method,
    Pass,
    TrainingSetup,
    fixed_diagonal,
    method_named,
    methods,
    register_method,
)
from aurac.errors import AuracError, RecipeError, UsageError
from aurac.training import make_recipe
from aurac.training.nesting_hook import NestingHook

PAGE = Path(__file__).parents[2] / "docs/howto/method.md"


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="lora, dylora, matryoshka, nested_loss"):
        method_named("adalora")


def test_a_name_that_is_taken_is_refused():
    class Other(Method):
        name = "lora"

    with pytest.raises(UsageError, match="another method"):
        register_method(Other())
    with pytest.raises(UsageError, match="with a name"):
        register_method(Method())
    assert type(methods()["lora"]).__name__ == "Lora"


class Wrong(Method):
    name = "wrong"
    gives: Any = None

    def passes(self, setup, step):
        return self.gives

    def diagonal(self, setup):
        return self.gives


@pytest.fixture
def wrong(monkeypatch):
    """A registered method whose answers a test sets."""
    monkeypatch.setitem(_KNOWN, "wrong", method := Wrong())
    return method


@pytest.mark.parametrize(
    "passes",
    [
        [], None, [np.ones(4)], [Pass(np.ones(1))], [Pass(np.full(4, np.nan))],
        [Pass([1.0] * 4)], [Pass(np.ones(4)), Pass(np.ones(4), weight=float("inf"))],
    ],
)  # fmt: skip
def test_passes_that_cannot_be_trained_are_refused(passes, wrong):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3))
    model = get_peft_model(layer, LoraConfig(r=4, target_modules=["0"]))
    values = {"name": "t", "method": "wrong", "rank": 4, "data": "x", "target_modules": ["0"]}
    wrong.gives = passes
    with pytest.raises(RecipeError, match=r"method 'wrong' gave the pass .*array of 4 finite"):
        NestingHook(model, make_recipe(values))


@pytest.mark.parametrize("diagonal", [np.ones(3), [1.0] * 4, np.full(4, np.inf), 2.0])
def test_a_diagonal_that_is_none_is_refused(diagonal, wrong):
    setup = TrainingSetup(4, (4,), (1.0,), "rank", 1.0)
    wrong.gives = diagonal
    with pytest.raises(UsageError, match=r"method 'wrong' gave the diagonal .*array of 4 finite"):
        fixed_diagonal("wrong", setup)
    wrong.gives = np.ones(4)
    assert fixed_diagonal("wrong", setup) is wrong.gives


@pytest.fixture
def package(tmp_path):
    """The package of the how-to page, laid out as pip installs it."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [source] = [text for kind, text in blocks if kind == "python"]
    [project] = [text for kind, text in blocks if kind == "toml"]
    site = tmp_path / "site"
    info = site / "tail_lora-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "tail_lora.py").write_text(source)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tail-lora\nVersion: 1.0\n")
    points = project.split('[project.entry-points."aurac.methods"]')[1]
    (info / "entry_points.txt").write_text("[aurac.methods]\n" + points.replace('"', ""))
    return site


def run(package, code, *arguments):
    root = str(PAGE.parents[2])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), root])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_method_of_the_page_trains_and_truncates(package, tiny_base_folder, tmp_path):
    data = tmp_path / "train.jsonl"
    rows = [{"question": f"Mia {a}", "answer": str(a)} for a in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "t", "method": "tail_lora", "rank": 4, "base": str(tiny_base_folder),
        "data": str(data), "steps": 2, "batch_size": 4, "dtype": "float32",
        "method_options": {"decay": 0.5},
    }  # fmt: skip
    code = """
import json, sys
from aurac.adapters import default_rescale, load_adapter, truncate
from aurac.training import make_recipe, train
recipe = make_recipe(json.loads(sys.argv[1]))
train(recipe, sys.argv[2])
adapter = load_adapter(sys.argv[2])
name = next(iter(adapter.modules))
print(json.dumps({
    "method": adapter.method, "rescale": default_rescale(adapter),
    "p": list(adapter.rank_weights(name)), "rank": truncate(adapter, 2).rank,
}))
"""
    done = run(package, code, json.dumps(values), str(tmp_path / "adapter"))
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    # s_4 = 1/2 by the rule sqrt, halved from one component to the next
    assert facts == {
        "method": "tail_lora", "rescale": "trained", "rank": 2, "p": [0.5, 0.25, 0.125, 0.0625]
    }  # fmt: skip
    with pytest.raises(AuracError, match="tail_lora"):
        load_adapter(tmp_path / "adapter")


def test_a_package_that_cannot_be_imported_is_named(package):
    (package / "tail_lora.py").write_text("raise RuntimeError('no')")
    code = "from aurac.adapters.methods import methods; methods()"
    done = run(package, code)
    assert "tail-lora cannot be imported (RuntimeError: no)" in done.stderr
