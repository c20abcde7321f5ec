"""Run folders for the tests of the report, simulated: not a number in them was measured."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
from made_cells import make_identity, store_cell

from aurac.records.cell import DocumentKey
from aurac.records.results_file import Results
from aurac.records.run import stored_run
from aurac.records.serving import AdapterCost, RankCost, ServingRecord, Times
from aurac.records.store import read_cell

ZOO = {
    # name: (method, rescale, accuracy at the lowest and the highest rank, role)
    ("matryoshka", "matryoshka", "trained", "default"): (0.18, 0.80),
    ("matryoshka", "matryoshka", "rule", "published"): (0.10, 0.25),
    ("dylora", "dylora", "rule", "default"): (0.57, 0.68),
    ("lora", "lora", "rule", "default"): (0.16, 0.76),
}
METRIC = "exact_match,strict-match"


def weights(ranks, axis):
    """Trapezoid weights, written out once more so that the tests stand on their own feet."""
    x = np.log2(ranks) if axis == "log2" else np.asarray(ranks, float)
    if len(ranks) < 2:
        return None
    w = np.zeros(len(ranks))
    w[:-1] += np.diff(x) / 2
    w[1:] += np.diff(x) / 2
    return (w / (x[-1] - x[0])).tolist()


def run_from(results, folder=None):
    """A parsed `results.json` as the report takes it."""
    return stored_run(results_from(results), folder)


def results_from(results):
    """A parsed `results.json` as a record."""
    return msgspec.convert(results, Results, str_keys=True)


def estimate(values):
    mean, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
    return {
        "value": mean,
        "se": se,
        "low": max(0, mean - 1.97 * se),
        "high": min(1, mean + 1.97 * se),
    }


class RunMaker:
    """Collects curves and writes a run folder."""

    def __init__(self, folder, *, seed=0, n=200, cells=True):
        self.folder = Path(folder)
        self.rng = np.random.default_rng(seed)
        self.n, self.with_cells = n, cells
        self.strata = None
        self.curves, self.tasks, self.adapters, self.failures = [], {}, {}, []
        self.difficulty, self.base = {}, {}

    def cell(self, name, task, scores, texts):
        """A cell's path; of a group of tasks one path for each member."""
        paths = []
        for member, rows in self.members(task).items():
            identity = make_identity(task=member, adapter_sha256=name)
            if self.with_cells:
                keys = [DocumentKey(str(i), f"{member}-{i}", f"prompt {i}") for i in rows]
                columns = {METRIC: [scores[i] for i in rows]}
                store_cell(self.folder, identity, keys, columns, [texts[i] for i in rows])
            paths.append(f"cells/{identity.key}.jsonl")
        return paths if self.strata else paths[0]

    def members(self, task):
        """Task → places of its documents; a group's tasks are its strata."""
        if not self.strata:
            return {task: range(self.n)}
        assert sorted(self.strata) == list(self.strata)
        return {
            name: [i for i, label in enumerate(self.strata) if label == name]
            for name in dict.fromkeys(self.strata)
        }

    def outcomes(self, task, accuracy):
        """Correlated right and wrong answers: documents keep their difficulty over the ranks."""
        if task not in self.difficulty:
            self.difficulty[task] = self.rng.normal(size=self.n)
        from scipy.special import ndtri

        noise = self.rng.normal(size=self.n)
        rows = []
        for share in accuracy:
            noise = 0.8 * noise + 0.6 * self.rng.normal(size=self.n)
            latent = 0.8 * self.difficulty[task] + 0.6 * noise
            rows.append((latent < ndtri(np.clip(share, 1e-9, 1 - 1e-9))).astype(float))
        return np.array(rows)

    def add(
        self,
        adapter,
        accuracy,
        *,
        task="word_problems",
        ranks=(1, 2, 4, 8, 16),
        method="lora",
        rescale="rule",
        role="default",
        basis="prefix",
        missing=None,
        texts=None,
        seed=1,
    ):
        missing = missing or {}
        kept = [r for r in ranks if r not in missing]
        shares = [a for r, a in zip(ranks, accuracy, strict=True) if r not in missing]
        scores = self.outcomes(task, shares)
        if task not in self.base:
            self.base[task] = self.outcomes(task, [0.05])[0]
        base = self.base[task]
        at = len(self.curves)
        cells = {"0": self.cell(f"{task}-base", task, base, ["no idea"] * self.n)}
        for rank, row in zip(kept, scores, strict=True):
            said = texts or [
                f"Working at rank {rank}: #### {2 * i + 3 if ok else i}" for i, ok in enumerate(row)
            ]
            cells[str(rank)] = self.cell(f"{at}-{rank}", task, row, said)
        area = {}
        for axis in ("log2", "linear"):
            w = weights(kept, axis)
            area[axis] = (w, None if w is None else estimate(np.asarray(w) @ scores))
        mean = scores.mean(axis=1)
        sd = scores.std(axis=1, ddof=1) / np.sqrt(self.n)
        means = [float(m) for m in mean]
        scored = area["log2"][0] is not None
        self.curves.append(
            {
                "id": f"{adapter} · {basis} · {rescale}",
                "adapter": adapter,
                "method": method,
                "base": "tiny-base",
                "task": task,
                "metric": METRIC,
                "basis": basis,
                "rescale": rescale,
                "default": role == "default",
                "role": role,
                "ranks": kept,
                "accuracy": means,
                "accuracy_low": [
                    float(max(0, m - 1.97 * s)) for m, s in zip(mean, sd, strict=True)
                ],
                "accuracy_high": [
                    float(min(1, m + 1.97 * s)) for m, s in zip(mean, sd, strict=True)
                ],
                "missing": {str(r): why for r, why in missing.items()},
                "baseline": float(base.mean()),
                "baseline_reason": None,
                "trained_rank": max(ranks),
                "parameters": [46_080 * r for r in kept],
                "bytes": [92_160 * r for r in kept],
                "n_docs": self.n,
                "cells": cells,
                "score": {
                    "log2": area["log2"][1],
                    "linear": area["linear"][1],
                    "mean": float(mean.mean()),
                }
                if scored
                else None,
                "score_reason": None if scored else "a single rank has no area",
                "weights": {axis: w for axis, (w, _) in area.items() if w},
                "drops": [
                    [a, b, float(x - y)]
                    for a, b, x, y in zip(kept, kept[1:], means, means[1:], strict=False)
                    if y < x
                ],
            }
        )
        self.tasks.setdefault(
            task,
            {
                "name": task,
                "num_fewshot": 0,
                "n_docs": self.n,
                "metric": METRIC,
                "documents_sha256": "d" * 64,
                "prompts_sha256": "p" * 64,
                "output_type": "generate_until",
                "version": "1",
                "limit": None,
                "members": list(self.members(task)) if self.strata else [],
            },
        )
        self.adapters.setdefault(
            adapter,
            {
                "name": adapter,
                "path": f"adapters/{adapter}",
                "format": "peft",
                "sha256": f"{at:x}" * 64,
                "method": method,
                "nested_ranks": list(ranks) if method != "lora" else [max(ranks)],
                "weights": None,
                "rule": "sqrt",
                "alpha": 1.0,
                "trained_rank": max(ranks),
                "modules": 210,
                "notes": [],
                "recipe": {"name": "zoo"},
                "seed": seed,
            },
        )
        return self

    def results(self):
        return {
            "schema": 1,
            "aurac": "0.1.0",
            "curves": self.curves,
            "tasks": list(self.tasks.values()),
            "adapters": list(self.adapters.values()),
            "failures": self.failures,
            "provenance": {
                "command": "aurac compare 'a b' --tasks word_problems",
                "started": "2026-01-02T03:04:05Z",
                "finished": "2026-01-02T03:08:05Z",
                "seconds": 240.0,
                "seed": 0,
                "dtype": "float32",
                "device": "cpu",
                "base": {"name": "tiny-base", "sha256": "b" * 64},
                "versions": {"torch": "2.13", "transformers": "5.24", "lm_eval": "0.4.13"},
                "machine": {"cpus": 2},
                "settings": {"ranks": "pow2", "batch_tokens": 4096},
            },
        }

    def keep_questions(self, hostile=""):
        """The optional file of a task's questions and references."""
        (self.folder / "documents").mkdir(parents=True, exist_ok=True)
        for at, task in enumerate(self.tasks.values()):
            task["documents"] = f"documents/{at}.json"
            content = {
                "doc_ids": [str(i) for i in range(self.n)],
                "questions": [
                    f"Ann has {i} pens and buys {i + 3} more. How many are hers now?{hostile}"
                    for i in range(self.n)
                ],
                "targets": [
                    f"{i} + {i + 3} = {2 * i + 3}. #### {2 * i + 3}{hostile}" for i in range(self.n)
                ],
            }
            (self.folder / task["documents"]).write_text(json.dumps(content))
        return self

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "results.json").write_text(
            json.dumps(self.results(), ensure_ascii=False, allow_nan=False)
        )
        return self.folder


def served(folder, *, ranks=None, repeats=10):
    """A run folder with a measurement in it: rank r takes 10 + r/4 ms a token, the base 9 ms.

    All swing by 2 % or more together. Rank 8 takes 13.9 ms and swings apart from the others, so
    that its difference to rank 16 is within noise.
    """
    results = Results.read(folder)
    swing = [1 + 0.02 * (-1) ** i * (1 + i // 2 / 10) for i in range(repeats)]
    noise = [(-1) ** (i // 2) * 0.5e-3 for i in range(repeats)]

    def cost(rank):
        tokens = {0: 0.009, 8: 0.0139}.get(rank, 0.010 + rank / 4000)
        apart = noise if rank == 8 else [0.0] * repeats
        decode = [tokens * one + more for one, more in zip(swing, apart, strict=True)]
        times = Times.of(decode), Times.of([20 * one for one in decode])
        return RankCost(rank=rank, bytes=92_160 * rank, decode=times[0], prefill=times[1])

    curves = {curve.adapter: curve for curve in results.curves}
    adapters = [
        AdapterCost(
            name=one.name,
            sha256=one.sha256,
            ranks=[cost(rank) for rank in ranks or curves[one.name].ranks],
        )
        for one in results.adapters
    ]
    ServingRecord(
        aurac="0.1.0",
        measured="2026-01-02T03:09:05+00:00",
        base="tiny-base",
        base_sha256="b" * 64,
        dtype="float32",
        device="cpu",
        batch=1,
        prompt_tokens=256,
        new_tokens=32,
        repeats=repeats,
        machine={"cpu": "a processor"},
        versions={},
        merged=cost(0),
        adapters=adapters,
    ).write(folder)
    return folder


def ramp(low, high, k):
    """K accuracies that rise quickly and then level off."""
    t = np.linspace(0, 1, k)
    return (low + (high - low) * (1 - (1 - t) ** 1.7)).tolist()


def zoo_run(
    folder, *, tasks=("word_problems",), n=200, ranks=(1, 2, 4, 8, 16), seed=0, strata=None
):
    """Three adapters, the nested one under two inferences."""
    maker = RunMaker(folder, seed=seed, n=n)
    maker.strata = strata
    for task in tasks:
        for (adapter, method, rescale, role), (low, high) in ZOO.items():
            maker.add(
                adapter,
                ramp(low, high, len(ranks)),
                task=task,
                ranks=ranks,
                method=method,
                rescale=rescale,
                role=role,
            )
    return maker


def many_curves(
    folder,
    count,
    *,
    ranks=(1, 2, 4, 8, 16, 32),
    n=100,
    cells=True,
    task="word_problems",
    shape="crossing",
):
    """`count` adapters whose curves cross, are flat, or end at the same height."""
    maker = RunMaker(folder, seed=3, n=n, cells=cells)
    for at in range(count):
        low, high = {
            "crossing": (0.2 + 0.5 * at / max(1, count - 1), 0.75 - 0.3 * at / max(1, count - 1)),
            "flat": (0.5, 0.5),
            "same end": (0.1 + 0.3 * at / max(1, count - 1), 0.7),
        }[shape]
        maker.add(f"adapter-{at:02d}", ramp(low, high, len(ranks)), ranks=ranks, task=task)
    return maker


def stored_scores(folder, paths):
    """The scores in a cell, of a group's members one after the other."""
    paths = [paths] if isinstance(paths, str) else paths
    return [score for path in paths for score in read_cell(Path(folder) / path).metrics[METRIC]]
