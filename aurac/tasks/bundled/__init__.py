"""Reads the bundled examples: compressed JSON Lines beside their YAML files, checked by SHA-256.

`python -m scripts.word_problems` in the sources makes the files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.errors import DataError, TaskError

if TYPE_CHECKING:
    import datasets

DIGESTS: dict[str, dict[str, str]] = {
    "aurac_word_problems": {
        "train": "4bb9b513d211006a27e509893305d149d08a8d5fac6cd96039b40a3ae72bf768",
        "validation": "94613542414019fa5dadef15016b390016f441d5b461a6e98f696c4cd22c148a",
        "test": "67ac09ab0f6222273b746aefd0a605c43be997c7ec98c89efcccd87836bee7de",
    },
    "aurac_word_problems_mc": {
        "train": "e99874d3b3c116fbd21aa10d4eb23c4374ef5e5ed2e5456015e0b3f88bb6c1e7",
        "validation": "add14afd4013f6269bd225d934dddaaf79d4f3a85ceb7da58d235f160f6b78c6",
        "test": "864280c617999c87c2cac7a776e8664751ac90af7f4fc81798ebd82bc5428e3a",
    },
}
"""SHA-256 of each split's uncompressed lines: a published number refers to these examples."""

BUNDLED: tuple[str, ...] = tuple(DIGESTS)


def include_path() -> Path:
    """The folder to give to lm-eval (`TaskManager(include_path=...)`, `--include_path`)."""
    return Path(__file__).parent


def documents(task: str) -> dict[str, Path]:
    """The gzipped JSON Lines file of each split of a bundled task, verified."""
    files = _files(task)
    for split in files:
        _lines(task, split)
    return files


def load_split(task: str, split: str) -> list[dict[str, object]]:
    """The examples of one split ("train", "validation" or "test"), verified.

    Raises:
        TaskError: The task or the split is unknown.
        DataError: The file is missing, damaged, or differs from the published examples.
    """
    if split not in (files := _files(task)):
        raise TaskError(f"Task {task} has no split {split}, but {', '.join(files)}.")
    return [json.loads(line) for line in _lines(task, split).splitlines()]


def dataset(*, task: str, **_: object) -> datasets.DatasetDict:
    """All splits in memory; lm-eval calls this for `custom_dataset` of the YAML files.

    (`dataset_path: json` resolves `data_files` against the working folder and copies them.)
    """
    from datasets import Dataset, DatasetDict

    splits = {split: Dataset.from_list(load_split(task, split)) for split in _files(task)}
    return DatasetDict(splits)


def _files(task: str) -> dict[str, Path]:
    if task not in DIGESTS:
        raise TaskError(f"{task} is not a bundled task, and {' and '.join(BUNDLED)} are.")
    return {split: include_path() / task / f"{split}.jsonl.gz" for split in DIGESTS[task]}


def _lines(task: str, split: str) -> bytes:
    path, lines = _files(task)[split], b""
    with suppress(OSError, EOFError, zlib.error):
        lines = gzip.decompress(path.read_bytes())
    if hashlib.sha256(lines).hexdigest() != DIGESTS[task][split]:
        raise DataError(f"{path} does not hold the published data of {task}: reinstall aurac.")
    return lines
