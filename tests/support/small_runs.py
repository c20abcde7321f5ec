"""Runs of a tiny base on a few examples, and what their folders say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from aurac.adapters import Adapter, Factors, Nesting, default_nested_ranks, save_adapter
from aurac.records.run import read_run
from aurac.runs.compare import run
from aurac.runs.settings import Settings

TASK = "aurac_word_problems_mc"
SMALL = {"limit": 5, "dtype": "float32", "device": "cpu"}


def random_adapter(base, folder, *, name="mine", rank=4, nesting=None, seed=0, layers=1):
    """The folder of an adapter with random factors for a module of each layer of the tiny base.

    Without `nesting` it is DyLoRA's, whose cut is its prefix.
    """
    torch.manual_seed(seed)
    modules = {
        f"model.layers.{at}.self_attn.q_proj": Factors(
            A=torch.randn(rank, 32), B=torch.randn(32, rank) / (1 + at), alpha=1.0, rule="sqrt"
        )
        for at in range(layers)
    }
    nesting = nesting or Nesting("dylora", default_nested_ranks(rank))
    adapter = Adapter(name=name, modules=modules, nesting=nesting, base=str(base))
    return save_adapter(adapter, Path(folder), force=True)


def run_small(adapters, out, tasks=(TASK,), **options):
    """A run with the settings of `SMALL`, and without a report where that is switched off."""
    return run(Settings.of(adapters, tasks, out=out, **{**SMALL, **options}))


def command(adapter, out, *more):
    """A comparison with the settings of `SMALL` as a command line."""
    words = [sys.executable, "-m", "aurac", "compare", str(adapter), "--tasks", TASK]
    words += ["--limit", "5", "--dtype", "float32", "--device", "cpu", "--out", str(out)]
    return [*words, *more]


def curves(folder):
    """The curves of a run as text, with the outcome of every example."""
    stored = read_run(folder)
    assert not stored.failures
    fields = ("task", "adapter", "basis", "rescale", "ranks")
    rows = [
        [*(getattr(c, name) for name in fields), c.outcomes.tolist(), c.base_scores.tolist()]
        for c in stored.curves
    ]
    return json.dumps(rows)


def cell_files(folder):
    """The names and sizes of the cells of a run."""
    return {path.name: path.stat().st_size for path in (Path(folder) / "cells").iterdir()}


def assert_clean(folder):
    """No temporary file is left, and no mark of work that is not done."""
    assert {path.suffix for path in (Path(folder) / "locks").iterdir()} == {".lock"}
    assert list(Path(folder).rglob(".*")) == []
