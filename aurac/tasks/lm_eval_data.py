"""What the YAML files call: the bundled documents as data sets, with no hub and no HF cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.tasks.store import DIGESTS, load_split

if TYPE_CHECKING:
    import datasets


def word_problems(**_: Any) -> datasets.DatasetDict:
    """The splits of `aurac_word_problems`; lm-eval passes metadata, which changes nothing."""
    return _dataset("aurac_word_problems")


def word_problems_mc(**_: Any) -> datasets.DatasetDict:
    """The splits of `aurac_word_problems_mc`; lm-eval passes metadata, which changes nothing."""
    return _dataset("aurac_word_problems_mc")


def _dataset(task: str) -> datasets.DatasetDict:
    import datasets

    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(load_split(task, split)) for split in DIGESTS[task]}
    )
