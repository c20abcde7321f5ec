"""Training examples: rows of data → token ids with the prompt masked."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aurac.errors import DataError, RecipeError
from aurac.models.weights import quiet_transformers
from aurac.readers.data_files import SUFFIXES, Row, read_rows
from aurac.training.recipe import Recipe

logger = logging.getLogger(__name__)

IGNORED = -100  # the label that torch's cross-entropy leaves out


def source_rows(recipe: Recipe) -> list[Row]:
    """All rows of the recipe's data, in their stored order.

    Raises:
        DataError: No such file or task, an unreadable file, or one without rows.
    """
    if recipe.task:
        from aurac.tasks import load_split

        return load_split(recipe.task, "train")
    if recipe.data.startswith("hub:"):
        from datasets import load_dataset

        name, _, config = recipe.data.removeprefix("hub:").partition(":")
        with quiet_transformers():
            return [dict(row) for row in load_dataset(name, config or None, split="train")]
    path = located_data(recipe.data, recipe.folder)
    files = [path / f"train{ending}" for ending in SUFFIXES] if path.is_dir() else []
    return read_rows(next(filter(Path.is_file, files), path))


def training_documents(recipe: Recipe) -> list[Row]:
    """The rows that the recipe trains on: the first `documents` of its data."""
    return source_rows(recipe)[: recipe.documents or None]


def identified(recipe: Recipe, rows: Iterable[Row] | None = None) -> Recipe:
    """The recipe with the hash of its data's rows, which are read unless they are given.

    Raises:
        RecipeError: It names the hash of other rows.
    """
    digest = hashlib.sha256()
    for row in source_rows(recipe) if rows is None else rows:
        digest.update(f"{json.dumps(row, sort_keys=True, default=str)}\n".encode())
    found = digest.hexdigest()
    if recipe.data_sha256 not in ("", found):
        there = f"the data {recipe.data or recipe.task} have the hash {found[:10]} now"
        raise RecipeError(f"{there}, and the recipe is for those of {recipe.data_sha256[:10]}")
    return replace(recipe, data_sha256=found)


def located_data(data: str, folder: Path | None) -> Path:
    """The path `data` of a recipe or study: beside its file in `folder`, else in the current."""
    path = Path(data).expanduser()
    beside = (folder or Path()) / path
    if not beside.exists():
        return path
    if path.exists() and not path.samefile(beside):
        logger.warning("using %s, beside its recipe or study, and not %s", beside, path.resolve())
    return beside


def _fields(template: str) -> list[str]:
    """The fields with which the `{…}` or `{{…}}` of a template begin; of a conditional one none."""
    return [] if "{%" in template else re.findall(r"\{+\s*(\w+)", template)


def _rendered(template: str, row: Row) -> str:
    """The text of a row; a LookupError for a value that would be trained on as a word."""
    for name in _fields(template):
        value = row.get(name, "")
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise LookupError(f"no value of {name}")
    if "{{" not in template and "{%" not in template:  # else it is Jinja, as lm-eval's are
        return template.format(**row)
    from lm_eval.utils import apply_template

    return apply_template(template, row)


def render(recipe: Recipe, row: Row, number: int) -> tuple[str, str]:
    """(prompt, target) of a row; a DataError where it does not fit the templates."""
    try:
        prompt = recipe.prompt
        if recipe.prompt_without and any(row.get(f) in (None, "") for f in _fields(prompt)):
            prompt = recipe.prompt_without
        return _rendered(prompt, row), _rendered(recipe.target, row)
    except Exception as error:
        raise DataError(
            f"Training example {number} (with {', '.join(row)}) does not fit the templates: "
            f"{error!r:.200}"
        ) from error


def tokenize(recipe: Recipe, rows: Iterable[Row], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Examples {input_ids, labels}: prompt + target + EOS, the prompt masked, cut at max_tokens.

    Prompt and target are tokenised apart, so that the seam is where evaluation puts it. Examples
    whose target was cut away whole are left out; where all are, a DataError is raised.
    """
    rendered = [render(recipe, row, n) for n, row in enumerate(rows, 1)]
    prompts = tokenizer([prompt for prompt, _ in rendered])["input_ids"]
    targets = tokenizer([target for _, target in rendered], add_special_tokens=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not end:
        logger.warning("the tokenizer has no EOS token: no end of an answer is learnt")
    examples = []
    for prompt, target in zip(prompts, targets, strict=True):
        ids = (prompt + target + end)[: recipe.max_tokens]
        labels = ([IGNORED] * len(prompt) + target + end)[: recipe.max_tokens]
        if any(label != IGNORED for label in labels[1:]):
            examples.append({"input_ids": ids, "labels": labels})
    left_out, limit = len(rendered) - len(examples), recipe.max_tokens
    if not examples:
        raise DataError(f"No training example has a target within max_tokens = {limit}.")
    if left_out:
        logger.warning("%d examples have no target within %d tokens: left out", left_out, limit)
    return examples


def collate(
    examples: Sequence[dict[str, list[int]]], pad: int, *, all_logits: bool = False
) -> dict[str, Any]:
    """A batch right-padded to its longest example: input_ids, attention_mask, labels (B, T).

    Unless `all_logits`, `labels` (B, K) and `logits_to_keep` = K begin where the first label is
    predicted: a large vocabulary's logits of a prompt cost time and memory and are in no loss.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(example["input_ids"]) for example in examples]
    targets = [torch.tensor(example["labels"]) for example in examples]
    labels = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    first = 0 if all_logits else max(int((labels != IGNORED).any(0).int().argmax()) - 1, 0)
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": labels[:, first:],
    }
    return batch if all_logits else batch | {"logits_to_keep": labels.shape[1] - first}
