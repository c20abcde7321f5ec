"""How long a large report takes, and how large its page is.

    python benchmarks/report_scale.py                 # 100 adapters × 9 ranks × 20 tasks
    python benchmarks/report_scale.py --adapters 10 --tasks 5 --documents 200

The run is simulated (right and wrong answers drawn at random, one cell for each adapter, task and
rank); what is timed is `aurac report` on it, in this process, from reading `results.json` on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from aurac.analysis.score import score
from aurac.curves.area import quadrature_weights
from aurac.records.cell import (
    CELL_SCHEMA,
    Block,
    Budgets,
    CellHead,
    CellIdentity,
    DocumentKey,
    EngineCounts,
    Logged,
    encode_line,
)
from aurac.show import write_report

METRIC = "acc,none"
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def make_run(folder: Path, adapters: int, tasks: int, documents: int, ranks=RANKS) -> Path:  # noqa: ANN001
    """A run folder with a cell for every adapter, task and rank."""
    rng = np.random.default_rng(0)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    curves = []
    for task in range(tasks):
        hard = rng.normal(size=documents)
        members = 5 if task % 2 else 1  # every second task is a group
        base = _cells(folder, f"task-{task:02d}", "base", hard < -1.5, members)
        for adapter in range(adapters):
            steady = rng.normal(size=documents)
            level = np.linspace(-1.0, rng.uniform(-0.2, 0.8), len(ranks))
            right = np.stack(
                [0.7 * hard + 0.5 * steady + 0.5 * rng.normal(size=documents) < x for x in level]
            )
            cells = {
                str(rank): _cells(folder, f"task-{task:02d}", f"{adapter}-{rank}", row, members)
                for rank, row in zip(ranks, right, strict=True)
            }
            curves.append(
                _curve(f"adapter-{adapter:03d}", f"task-{task:02d}", ranks, right, cells, base)
            )
    names = list(dict.fromkeys(curve["adapter"] for curve in curves))
    results = {
        "schema": 1,
        "aurac": "0.1.0",
        "curves": curves,
        "tasks": [
            {"name": f"task-{task:02d}", "metric": METRIC, "n_docs": documents, "num_fewshot": 0}
            for task in range(tasks)
        ],
        "adapters": [
            {"name": name, "sha256": f"{at:064x}", "method": "lora", "trained_rank": max(ranks)}
            for at, name in enumerate(names)
        ],
        "failures": [],
        "provenance": {"command": "simulated", "base": {"name": "simulated"}, "dtype": "float32"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def _cells(folder: Path, task: str, name: str, right: np.ndarray, members: int) -> list[str]:
    """A point of a curve: one cell, or one for each member of a group, documents in that order."""
    paths = []
    for member, part in enumerate(np.array_split(right, members)):
        identity = CellIdentity(
            adapter_sha256=name,
            base_sha256="simulated",
            rank=1,
            basis="prefix",
            rescale="rule",
            fit_factor=None,
            task=f"{task}-{member}" if members > 1 else task,
            task_version="1",
            num_fewshot=0,
            fewshot="stock",
            fewshot_seed=1234,
            chat_template=None,
            split=None,
            dtype="float32",
            device_kind="cpu",
        )
        block = Block(
            documents=[
                DocumentKey(str(i), f"document {i}", f"prompt {i}") for i in range(len(part))
            ],
            metrics={METRIC: part.astype(float).tolist()},
            responses=[f"answer {int(ok)}" for ok in part],
            logged=Logged(),
            engine=EngineCounts(),
            budgets=Budgets(),
            seconds=1.0,
        )
        head = CellHead(schema=CELL_SCHEMA, key=identity.key, identity=identity)
        path = folder / "cells" / f"{identity.key}.jsonl"
        path.write_bytes(encode_line(head, 0) + encode_line(block, len(part)))
        paths.append(path.relative_to(folder).as_posix())
    return paths


def _curve(adapter, task, ranks, right, cells, base) -> dict:  # noqa: ANN001
    from aurac.curves.curve import Curve

    found = score(Curve.from_outcomes(ranks, right.astype(float)))
    accuracy = right.mean(axis=1)
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / right.shape[1])
    return {
        "id": f"{adapter} · prefix · rule",
        "adapter": adapter,
        "method": "lora",
        "base": "simulated",
        "task": task,
        "metric": METRIC,
        "basis": "prefix",
        "rescale": "rule",
        "role": "default",
        "default": True,
        "ranks": list(ranks),
        "accuracy": accuracy.tolist(),
        "accuracy_low": np.maximum(accuracy - half, 0).tolist(),
        "accuracy_high": np.minimum(accuracy + half, 1).tolist(),
        "missing": {},
        "baseline": 0.07,
        "trained_rank": max(ranks),
        "parameters": [1000 * rank for rank in ranks],
        "bytes": [2000 * rank for rank in ranks],
        "n_docs": right.shape[1],
        "cells": cells,
        "baseline_cell": base,
        "score": found.to_dict(),
        "score_reason": None,
        "weights": {axis: quadrature_weights(ranks, axis).tolist() for axis in ("log2", "linear")},
        "drops": [],
    }


def main() -> None:
    """Make the run, time the report, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="Folder for the run and its report.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_run(args.keep or Path(scratch), args.adapters, args.tasks, args.documents)
        wall, cpu = time.perf_counter(), time.process_time()
        written = write_report(folder)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        page = next(path for path in written if path.name == "report.html")
        cells = args.adapters * args.tasks * len(RANKS)
        print(f"{args.adapters} adapters × {len(RANKS)} ranks × {args.tasks} tasks, {cells} cells")
        print(f"report: {wall:.1f} s ({cpu:.1f} s of CPU time), {len(written)} files")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
