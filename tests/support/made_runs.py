"""Cells and run folders made up for tests, written through the store."""

from __future__ import annotations

from aurac.files import write_json
from aurac.records.cells import CellStore
from aurac.records.lines import Block, CellIdentity, DocumentKey
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo


def make_identity(**fields):
    """An identity with everything but `fields` made up."""
    known = {"settings": "s" * 64, "adapter": "a" * 64, "rank": 1, "basis": "prefix"}
    return CellIdentity(**{**known, "rescale": "rule", "task": "t", "version": "1", **fields})


def make_keys(n, task="t"):
    """The keys of n examples."""
    return [DocumentKey(str(i), f"{task} content {i}", f"{task} prompt {i}") for i in range(n)]


def make_block(documents, metrics, responses=None, **fields):
    """A block of these examples."""
    columns = {key: [float(value) for value in column] for key, column in metrics.items()}
    texts = list(responses or [""] * len(documents))
    return Block(documents=list(documents), metrics=columns, responses=texts, **fields)


def store_cell(folder, identity, documents, metrics, responses=None):
    """Write a cell of one block; its key."""
    CellStore(folder).keep(identity, make_block(documents, metrics, responses))
    return identity.key


def make_run(folder, scores, *, base=None, task="t", metric="acc,none", methods=None, **fields):
    """A run folder: `scores` are adapter → rank → n scores; `base` are n.

    `methods` are adapter → method; the cut of all is the prefix by its rule.
    """
    n = len(next(iter(next(iter(scores.values())).values())))
    keys = make_keys(n, task)
    questions = {
        "keys": [[key.id, key.content, key.prompt] for key in keys],
        "questions": [f"question {i}" for i in range(n)],
        "targets": [f"target {i}" for i in range(n)],
    }
    write_json(folder / "documents" / f"{task}.json", questions)
    cuts, adapters = [], []
    for name, rows in scores.items():
        cells = {
            rank: store_cell(
                folder, make_identity(adapter=name, rank=rank, task=task), keys, {metric: row}
            )
            for rank, row in rows.items()
        }
        ways = {"basis": "prefix", "rescale": "rule"}
        cuts.append(CutInfo(adapter=name, **ways, cells={task: cells}))
        sizes = {rank: 1000 * rank for rank in rows}
        method = (methods or {}).get(name, "dylora")
        told = {"sha256": name, "trained_rank": max(rows), "sizes": sizes, "method": method}
        adapters.append(AdapterInfo(name=name, **told))
    identity = make_identity(adapter=None, rank=0, basis=None, rescale=None, task=task)
    key = store_cell(folder, identity, keys, {metric: base or [0.0] * n})
    info = TaskInfo(name=task, metric=metric, examples={task: n}, split=n)
    keys_of_cells = [key, *(key for cut in cuts for key in cut.cells[task].values())]
    manifest = {
        "settings": {"dtype": "float32"},
        "log": [{"command": "aurac compare", "base": "base", "dtype": "float32"}],
        "adapters": adapters,
        "tasks": [info],
        "asked": [task],
        "cuts": cuts,
        "base": {task: key},
        "asked_examples": dict.fromkeys(keys_of_cells, n),
    }
    Manifest(**{**manifest, **fields}).write(folder)
    return folder
