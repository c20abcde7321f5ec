"""The README's main job on the real model, with fewer documents; and the zoo that it compares."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ZOO = REPOSITORY / "adapters_zoo" / "word_problems"
METHODS = ("lora", "dylora", "matryoshka")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("main") / "run"
    command = [sys.executable, "-m", "aurac", "compare", *(str(ZOO / m) for m in METHODS)]
    command += ["--tasks", "aurac_word_problems", "--limit", "24", "--ranks", "1,16"]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "AURAC" in done.stdout
    return out


def test_run_folder_is_whole(run):
    names = {p.name for p in run.iterdir()}
    assert {"results.json", "report.md", "report.html", "table.csv", "table.tex", "cells"} <= names
    figures = {p.suffix for p in (run / "figures").iterdir()}
    assert {".svg", ".png"} <= figures


def test_adapters_are_far_above_the_base_at_full_rank(run):
    curves = {c["id"]: c for c in json.loads((run / "results.json").read_text())["curves"]}
    assert len(curves) == 5  # LoRA by SVD and prefix, MatryoshkaLoRA with and without P
    for name in METHODS:
        [curve] = [c for c in curves.values() if c["adapter"] == name and c["default"]]
        # 24 documents: a base at .05 reaches .25 by chance less than once in a thousand times
        assert curve["baseline"] <= 0.25
        assert curve["accuracy"][-1] > curve["baseline"]


@pytest.mark.parametrize("method", METHODS)
def test_zoo_adapters_are_plain_peft_of_about_10_megabytes(method):
    from peft import PeftModel

    from aurac.adapters import load_adapter
    from aurac.models.base import load_base

    adapter = load_adapter(ZOO / method)
    assert adapter.method == method
    assert adapter.rank == 16
    assert adapter.recipe is not None
    size = sum(p.stat().st_size for p in (ZOO / method).iterdir())
    assert size < 10.5e6
    assert (ZOO / method / "README.md").read_text().strip()
    loaded = load_base(adapter.base)
    assert loaded.sha256 == adapter.base_sha256
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PeftModel.from_pretrained(loaded.model, ZOO / method)
