"""The bundled examples: compressed JSON Lines beside their YAML files.

`python -m scripts.word_problems` in the sources makes the files; `tests/scripts` holds their
hashes: a published number refers to these examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aurac.errors import TaskError
from aurac.readers.data_files import Row, read_rows

if TYPE_CHECKING:
    import datasets

BUNDLED = ("aurac_word_problems", "aurac_word_problems_mc")


def include_path() -> Path:
    """The folder to give to lm-eval (`TaskManager(include_path=...)`, `--include_path`)."""
    return Path(__file__).parent


def documents(task: str) -> dict[str, Path]:
    """The gzipped JSON Lines file of each split of a bundled task."""
    if task not in BUNDLED:
        raise TaskError(f"{task} is not a bundled task, and {' and '.join(BUNDLED)} are.")
    splits = ("train", "validation", "test")
    return {split: include_path() / task / f"{split}.jsonl.gz" for split in splits}


def load_split(task: str, split: str) -> list[Row]:
    """The examples of one split ("train", "validation" or "test").

    Raises:
        TaskError: The task or the split is unknown.
        DataError: The file is missing or damaged.
    """
    if split not in (files := documents(task)):
        raise TaskError(f"Task {task} has no split {split}, but {', '.join(files)}.")
    return read_rows(files[split])


def dataset(*, task: str, **_: object) -> datasets.DatasetDict:
    """All splits in memory; lm-eval calls this for `custom_dataset` of the YAML files.

    (`dataset_path: json` resolves `data_files` against the working folder and copies them.)
    """
    from datasets import Dataset, DatasetDict

    splits = {split: Dataset.from_list(load_split(task, split)) for split in documents(task)}
    return DatasetDict(splits)
