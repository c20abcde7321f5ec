"""Analyses and stored runs made by hand, for what shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from aurac.curves.area import quadrature_weights

N = 100


@dataclass(frozen=True)
class Question:
    margin: float | None = None
    reference: str | None = None
    level: float = 0.95
    groups: dict = field(default_factory=dict)


def mean_of(x, scale=1.96):
    half = scale * np.std(x, ddof=1) / np.sqrt(len(x))
    return x.mean(), x.mean() - half, x.mean() + half


def analysed(adapters: dict[str, dict[int, float]], *, task="maths", margin=None, n=N, **more) -> Any:
    """An analysis with plain normal intervals, of accuracies by rank (0: the base)."""
    rng = np.random.default_rng(0)
    hard = rng.random(n)
    rows, scores, points, pairs, rank_pairs, advice = {}, [], [], [], [], []
    areas, cells = {}, {}
    for name, by_rank in adapters.items():
        noise = rng.random(n)
        x = {r: ((0.7 * hard + 0.3 * noise) < a).astype(float) for r, a in by_rank.items()}
        ranks = sorted(r for r in x if r)
        top = ranks[-1]
        w = {axis: quadrature_weights(ranks, axis) for axis in ("log2", "linear")}
        every = np.stack([x[r] for r in ranks])
        areas[name], cells[name] = w["log2"] @ every, x
        adapter, _, cut = name.partition(", ")
        rows[task, name] = SimpleNamespace(
            adapter=adapter, basis=cut or "svd", rescale="keep", method="lora", trained_rank=top,
            seeds=1,
            curves=(SimpleNamespace(adapter=adapter, metric="exact_match,strict-match", doc_ids=tuple(map(str, range(n))), basis=cut or "svd", rescale="keep", outcomes=every, missing={}),),
        )
        v, low, high = mean_of(areas[name])
        scores.append((task, name, "svd", v, low, high, float(w["linear"] @ every.mean(1)), x[0].mean() if 0 in x else None, n, 1))
        for r in sorted(x):
            v, low, high = mean_of(x[r])
            lost, _, bound = mean_of(x[top] - x[r], 1.64)
            points.append((task, name, "svd", r, v, low, high, None if r == 0 or 0 not in x else bool(low > x[0].mean()), lost if r else None, bound if r else None, r * 2_500_000 or None))
        if margin is not None:
            passing = [p for p in points if p[1] == name and p[3] and (p[9] <= margin or p[3] == top)]
            p = passing[0]
            advice.append((task, name, "svd", float(p[3]), float(top), margin, p[8], p[9], p[10]))
    order = sorted(adapters, key=lambda name: -areas[name].mean())
    m = len(order) * (len(order) - 1) // 2
    for i, a in enumerate(order):
        for b in order[i + 1 :]:
            v, low, high = mean_of(areas[a] - areas[b], 2.5)
            pairs.append((task, a, b, v, low, high, 0.01 if low > 0 else 0.4, m, n, 1))
            for r in sorted({*cells[a]} & {*cells[b]} - {0}):
                rank_pairs.append((task, a, b, r, *mean_of(cells[a][r] - cells[b][r])))
    made = SimpleNamespace(
        question=Question(margin, more.get("reference")),
        rows=rows,
        scores=pd.DataFrame(scores, columns="task adapter cut aurac low high aurac_linear base examples seeds".split()).sort_values("aurac", ascending=False, ignore_index=True),
        points=pd.DataFrame(points, columns="task adapter cut rank accuracy low high above_base loss loss_bound bytes".split()),
        pairs=pd.DataFrame(pairs, columns="task a b difference low high p comparisons examples seeds".split()),
        rank_pairs=pd.DataFrame(rank_pairs, columns="task a b rank difference low high".split()),
        recommended=pd.DataFrame(advice, columns="task adapter cut rank reference margin loss bound bytes".split()),
    )
    return made


class FakeRun(SimpleNamespace):
    def samples(self, task, adapter, basis, rescale, rank):
        rng = np.random.default_rng([rank, len(adapter)])
        score = (rng.random(N) < 0.3 + 0.02 * rank).astype(float)
        return pd.DataFrame({"example": [str(i) for i in range(N)], "score": score, "responses": [f"Working … so the answer is {int(s)} <b>&" for s in score]})

    def questions(self, task):
        return pd.DataFrame({"example": [str(i) for i in range(N)], "question": [f"Tom has {i} apples & <i>eats</i> 2. How many?" for i in range(N)], "target": [str(i - 2) for i in range(N)], "choices": [None] * N})


def stored(analysis, folder=Path("runs/x")) -> Any:
    names = list(dict.fromkeys(row.adapter for row in analysis.rows.values()))
    return FakeRun(
        folder=folder,
        settings={"tasks": ["maths"]},
        provenance={"command": "aurac compare lora dylora --tasks maths", "started": "2026-11-30T12:00:00Z", "seconds": 61.5, "versions": {"aurac": "0.2.0", "torch": "2.7"}, "machine": {"cpu": "x"}, "device": "cpu", "dtype": "float32", "base": "smollm2", "base_sha256": "ab" * 32, "backend": "engine"},
        tasks=tuple(SimpleNamespace(name=t, metric="exact_match,strict-match", examples=N, version="1", num_fewshot=0, members=(), rolling=False, higher_is_better=True) for t in dict.fromkeys(t for t, _ in analysis.rows)),
        adapters=tuple(SimpleNamespace(name=n, path=f"adapters_zoo/{n}", format="peft", sha256="cd" * 32, method="lora", base="smollm2", seed=0, data_order=None, trained_rank=16, sizes={}, parameters=1, recipe=None, notes=()) for n in names),
        failures=(), groups={}, curves=(),
    )


def three(**more):
    return analysed({"lora": {0: 0.05, 1: 0.1, 2: 0.35, 4: 0.5, 8: 0.55, 16: 0.56}, "matryoshka": {0: 0.05, 1: 0.2, 2: 0.4, 4: 0.5, 8: 0.53, 16: 0.6}, "dylora": {0: 0.05, 1: 0.06, 2: 0.2, 4: 0.23, 8: 0.3, 16: 0.31}}, **more)
