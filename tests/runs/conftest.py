"""What all tests of runs use."""

from __future__ import annotations

import pytest
from support.small_runs import random_adapter

from aurac.adapters import Nesting


@pytest.fixture(autouse=True)
def _no_report(request, monkeypatch):
    """No test of a run but those that use `reports` looks at its report."""
    if "reports" not in request.fixturenames:
        monkeypatch.setattr("aurac.runs.compare.write_report", lambda *_: None)


@pytest.fixture(scope="session")
def adapters(tiny_base_folder, tmp_path_factory):
    """Folders of a LoRA, a DyLoRA and a MatryoshkaLoRA adapter of rank 4."""
    root = tmp_path_factory.mktemp("adapters")
    nestings = {
        "lora": Nesting("lora", (4,)),
        "dylora": Nesting("dylora", (1, 2, 4)),
        "matryoshka": Nesting("matryoshka", (1, 2, 4)),
    }
    return {
        name: random_adapter(tiny_base_folder, root / name, name=name, nesting=nesting, seed=seed)
        for seed, (name, nesting) in enumerate(nestings.items())
    }


@pytest.fixture
def reports():
    """The test looks at the reports of its runs."""
