"""Cells made up for tests, written through the store."""

from __future__ import annotations

from aurac.records.cell import Block, CellIdentity, EngineCounts, Logged
from aurac.records.store import CellStore


def make_identity(**fields):
    """An identity with everything but `fields` made up."""
    known = {
        "adapter_sha256": "a" * 64,
        "base_sha256": "b" * 64,
        "rank": 1,
        "basis": "prefix",
        "rescale": "rule",
        "fit_factor": None,
        "task": "t",
        "task_version": "1",
        "num_fewshot": 0,
        "fewshot": "stock",
        "fewshot_seed": 1234,
        "chat_template": None,
        "split": None,
        "dtype": "float32",
        "device_kind": "cpu",
        "lm_eval": "0.4.13",
    }
    return CellIdentity(**{**known, **fields})


def make_block(documents, metrics, responses=None, **fields):
    """A block of these documents."""
    known = {
        "logged": Logged(),
        "engine": EngineCounts(),
        "seconds": 1.0,
    }
    return Block(
        documents=list(documents),
        metrics={key: [float(value) for value in column] for key, column in metrics.items()},
        responses=list(responses or [""] * len(documents)),
        **{**known, **fields},
    )


def store_cell(folder, identity, documents, metrics, responses=None, **fields):
    """Write a cell of one block; its path in the run folder."""
    store = CellStore(folder)
    block = make_block(documents, metrics, responses, **fields)
    store.append(identity, block, len(documents))
    return store.path(identity.key).relative_to(folder).as_posix()
