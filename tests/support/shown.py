"""Analyses and stored runs for what shows them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve
from aurac.errors import RunFolderError
from aurac.records.manifest import AdapterInfo, TaskInfo
from aurac.records.run import Failure, read_run

REPORTS = Path(__file__).parents[2] / "reports"
RANKS = (1, 2, 4, 8, 16)
METRIC = "exact_match,strict-match"
LORA, DYLORA = (0.1, 0.35, 0.5, 0.55, 0.56), (0.08, 0.2, 0.23, 0.3, 0.31)
MATRYOSHKA = (0.2, 0.4, 0.5, 0.53, 0.6)


def golden(name, text):
    """The stored text of this name; with AURAC_UPDATE_GOLDEN it is written first."""
    file = Path(__file__).parents[1] / "show" / "golden" / name
    if os.environ.get("AURAC_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8", newline="")
    return file.read_text(encoding="utf-8")


def word_problems() -> Any:
    """The run of the README: three adapters on 100 examples."""
    return read_run(REPORTS / "word_problems")


def curve(name="lora", accuracy=LORA, *, ranks=RANKS, n=200, base=0.05, task="maths", **more):
    """A curve whose examples are as hard for every adapter."""
    hard = np.random.default_rng(len(task)).permutation(n) / n
    own = np.random.default_rng([len(name), n]).random(n)
    level = 0.8 * hard + 0.2 * own
    order = np.argsort(np.argsort(level)) / n
    scores = np.stack([order < value for value in accuracy]).astype(float)
    fields = {"adapter": name, "task": task, "metric": METRIC, "basis": "svd", "rescale": "keep"}
    fields |= {"doc_ids": tuple(map(str, range(n))), "trained_rank": max(ranks), "method": "lora"}
    fields |= {"sizes": {rank: 2_500_000 * rank for rank in ranks}}
    if base is not None:
        fields["base_scores"] = (order < base).astype(float)
    return Curve.from_outcomes(ranks, scores, **(fields | more))


def perplexity():
    """A curve of a metric of whole texts."""
    values, fields = (24.0, 23.0, 21.0, 17.0, 9.0), {"basis": "svd", "rescale": "keep"}
    labels = {"adapter": "lora", "task": "wikitext", "metric": "word_perplexity,none"}
    return Curve(RANKS, values, rolling=True, baseline=30.0, **labels, **fields)


def one(margin=None, **more):
    """An analysis of one adapter."""
    return analyse([curve(**more)], Question(margin=margin))


def three(margin=None, reference=None, tasks=("maths",), **more):
    """An analysis of three adapters, of which the first two are alike."""
    each = {"matryoshka": MATRYOSHKA, "lora": LORA, "dylora": DYLORA}
    curves = [
        curve(name, task=task, accuracy=a, **more) for task in tasks for name, a in each.items()
    ]
    return analyse(curves, Question(margin=margin, reference=reference))


class FakeRun(SimpleNamespace):
    """What `StoredRun` gives, without cells; `text` is what every adapter answers."""

    read = None  # what a filter took of each answer
    target = None  # of all examples; by default the name of each

    def answers(self, task, adapter, basis, rescale, rank):
        found = next(c for c in self.curves if (c.adapter, c.task) == (adapter, task))
        scores = found.outcomes[found.ranks.index(rank)] if rank else found.base_scores
        if scores is None or found.doc_ids is None:
            raise RunFolderError("no such cell")
        ids = found.doc_ids
        asked = [f"Tom has {at} apples. {self.text}" for at in ids]
        columns = {
            "example": ids,
            "question": asked,
            "target": [self.target or at for at in ids],
            "choices": [None] * len(ids),
        }
        answers = [f"{self.text} {adapter} {int(score)}" for score in scores]
        return pd.DataFrame(columns | {"score": scores, "response": answers, "read": self.read})


def stored(analysis, folder=Path("runs/x"), *, text="The answer is", failures=(), **more) -> Any:
    """A run of the curves of an analysis."""
    curves = [curve for row in analysis.rows for curve in row.curves]
    tasks = tuple(
        TaskInfo(name=c.task, metric=c.metric, rolling=c.rolling)
        for c in {c.task: c for c in curves}.values()
    )
    names = dict.fromkeys(curve.adapter for curve in curves)
    return FakeRun(
        folder=folder,
        text=text,
        settings={},
        provenance={
            "command": "aurac compare lora --tasks maths",
            "base": "smollm2",
            "dtype": "float32",
            "versions": {"aurac": "0.2.0"},
            "machine": {"system": "Linux"},
        },
        tasks=tasks,
        adapters=tuple(
            AdapterInfo(name=n, path=f"zoo/{n}", sha256="cd" * 32, method="lora", trained_rank=16)
            for n in names
        ),
        failures=tuple(Failure("lora", "svd", "keep", 4, "maths", text) for text in failures),
        groups={},
        overlaps=[],
        unwritten=[],
        curves=tuple(curves),
        **more,
    )
