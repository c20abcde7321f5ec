"""Runs of a tiny base on a few documents, and what their folders say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from aurac.adapters import Adapter, Factors, Nesting, default_nested_ranks, save_adapter
from aurac.runs.dryrun import plan_request
from aurac.runs.settings import Request

TASK = "aurac_word_problems_mc"
SMALL = {"limit": 5, "dtype": "float32", "device": "cpu"}


def random_adapter(base, folder, *, name="mine", rank=4, nesting=None, seed=0, layers=1):
    """The folder of an adapter with random factors for a module of each layer of the tiny base.

    Without `nesting` it is DyLoRA's, so that one curve, its prefix, is evaluated.
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


def command(adapter, out, *more):
    """A comparison with the settings of `SMALL` as a command line."""
    words = [sys.executable, "-m", "aurac", "compare", str(adapter), "--tasks", TASK]
    words += ["--limit", "5", "--dtype", "float32", "--device", "cpu", "--out", str(out)]
    return [*words, *more]


def dry_run(checkpoints, tasks, *, out=None, command=None, **options):
    """What `aurac.compare` would do with these arguments."""
    return plan_request(Request.of(checkpoints, tasks, out, **options), command)


def curves(folder):
    """The curves of a run as text."""
    return json.dumps(json.loads((Path(folder) / "results.json").read_text())["curves"])


def events(folder, name):
    """The events of this name in all logs of a run folder."""
    lines = [
        json.loads(line)
        for path in (Path(folder) / "logs").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line["event"] == name]


def outcomes(cell):
    """What a cell says of its documents."""
    return (cell.identity, cell.documents, cell.metrics, cell.responses, cell.logged)


def assert_clean(folder):
    """No lock and no temporary file is left."""
    assert list((Path(folder) / "locks").iterdir()) == []
    assert list(Path(folder).rglob(".*")) == []
