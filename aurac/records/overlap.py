"""`overlap.json`: how many examples of the tasks the training data of the adapters have, too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from aurac.files import read_json, write_json

OVERLAP_FILE = "overlap.json"


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """What a task and the training data of an adapter share.

    Attributes:
        task: Its name.
        adapter: The hash of its weights; as `StoredRun` gives it, its name.
        data: What the training data are called.
        examples: How many examples of the task were looked for.
        same: Those whose prompt and reference the data have.
        prompts: Further ones whose prompt alone they have.
    """

    task: str
    adapter: str
    data: str
    examples: int
    same: int
    prompts: int


def read_overlaps(folder: Path) -> list[Overlap]:
    """All that a run folder holds."""
    path = folder / OVERLAP_FILE
    return read_json(path, list[Overlap]) if path.is_file() else []


def add_overlaps(folder: Path, found: Iterable[Overlap]) -> None:
    """Keep what a command found, in the place of what an earlier one found."""
    kept = {(o.task, o.adapter, o.data): o for o in (*read_overlaps(folder), *found)}
    if kept:
        write_json(folder / OVERLAP_FILE, msgspec.to_builtins([*kept.values()]))
