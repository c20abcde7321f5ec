"""Training examples: documents → token ids with the prompt masked."""

from __future__ import annotations

import logging
import math
import re
import string
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from aurac.errors import DataError, first_line
from aurac.models.weights import quiet_transformers
from aurac.readers.data_files import SUFFIXES, Row, read_rows
from aurac.training.recipe import Recipe

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)
_ENDINGS = ", ".join(SUFFIXES)

IGNORED = -100  # the label that torch's cross-entropy leaves out
_CONDITION = "{%"  # a template with one may mean to show nothing


def training_documents(recipe: Recipe) -> list[Row]:
    """The documents that the recipe trains on, in their stored order.

    Raises:
        DataError: Nothing there, an unreadable file, or a hub that cannot be reached.
    """
    if recipe.task:
        documents = _bundled(recipe.task)
    elif recipe.data.startswith("hub:"):
        documents = _from_hub(recipe.data)
    else:
        documents = read_rows(training_file(recipe))
    if not documents:
        raise DataError(f"{recipe.task or recipe.data!r} holds no training documents")
    return documents[: recipe.documents] if recipe.documents else documents


def training_file(recipe: Recipe) -> Path:
    """The local file that the recipe trains on.

    Raises:
        DataError: It is not there, or its ending is of no format that is read.
    """
    path = located_data(recipe.data, recipe.folder)
    if path.is_dir():
        for file in (path / f"train{ending}" for ending in SUFFIXES):
            if file.is_file():
                return file
        raise DataError(f"the folder {path} holds no train split", expected="train.jsonl")
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        raise DataError(
            f"no training data at {path}", expected=f"a folder or a file ending in {_ENDINGS}"
        )
    return path


def located_data(data: str, folder: Path | None) -> Path:
    """The path `data` of a recipe or study with its file in `folder`: there, else in the current.

    With no `folder` only the current one counts. A DataError says that it is in neither.
    """
    path = Path(data).expanduser()
    if folder is None or path.is_absolute():
        return path
    beside = folder / path
    if not (beside.exists() or path.exists()):
        raise DataError(
            f"no data {data!r} in {folder.resolve()} (beside its recipe or study) or {Path.cwd()}",
            expected=f"a folder or a file ending in {_ENDINGS}",
        )
    if not beside.exists():
        return path
    if path.exists() and not path.samefile(beside):
        logger.warning("using %s, beside its recipe or study, and not %s", beside, path.resolve())
    return beside


def _bundled(task: str) -> list[Row]:
    from aurac.tasks import BUNDLED, load_split

    if task not in BUNDLED:
        raise DataError(
            f"no bundled task {task!r}",
            expected=" or ".join(BUNDLED),
            fix="for other tasks set `data` to a file, a folder or hub:ID",
        )
    return load_split(task, "train")


def _from_hub(source: str) -> list[Row]:
    from datasets import load_dataset

    name, _, config = source.removeprefix("hub:").partition(":")
    try:
        with quiet_transformers():
            rows = load_dataset(name, config or None, split="train")
    except Exception as error:
        raise DataError(
            f"data set {name!r} could not be fetched from the hub ({first_line(error)})",
            expected="a reachable hub, or local data",
            fix="check the network, or give --set data=FOLDER with a train.jsonl in it",
        ) from error
    return [dict(row) for row in rows]


def _fields(template: str) -> set[str]:
    """The fields that a template names."""
    if _is_jinja(template):
        return meta.find_undeclared_variables(_jinja().parse(template))
    named = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return {re.split(r"[.\[]", name)[0] for name in named}


def _is_jinja(template: str) -> bool:
    """A template with `{{` or `{%` is one of Jinja, as lm-eval's are; others have `{field}`."""
    return "{{" in template or "{%" in template


def _render(template: str, document: Row) -> str:
    if _is_jinja(template):
        return _jinja().from_string(template).render(**document)
    return template.format(**document)


@cache
def _jinja() -> SandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = lambda text, pattern, replacement, count=0: re.sub(
        pattern, replacement, text, count=count
    )  # lm-eval's templates have it
    return environment


def render(recipe: Recipe, document: Row, number: int) -> tuple[str, str]:
    """(prompt, target) of a document; a DataError where it does not fit the templates."""
    prompt = recipe.prompt
    try:
        empty = any(document.get(name) in (None, "") for name in _fields(prompt))
        if recipe.prompt_without and empty:
            prompt = recipe.prompt_without
        for template in (prompt, recipe.target):
            if _CONDITION not in template and (missing := _missing(template, document)):
                raise LookupError(f"no value of {missing}")
        texts = _render(prompt, document), _render(recipe.target, document)
        for text in texts:
            text.encode()  # JSON may hold half a surrogate pair, which no tokenizer takes
    except Exception as error:
        raise DataError(
            f"training document {number} does not fit the templates ({error!r:.200})",
            expected=f"templates of the fields that it has: {', '.join(document)}",
            fix="correct `prompt` and `target`, or the document",
        ) from error
    return texts


def _missing(template: str, document: Row) -> str | None:
    """A field of the template that is None or NaN, which would be trained on as a word."""
    for name in sorted(_fields(template)):
        value = document.get(name, "")
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return name
    return None


def tokenize(
    recipe: Recipe, documents: Iterable[Row], tokenizer: Any
) -> list[dict[str, list[int]]]:
    """Examples {input_ids, labels}: prompt + target + EOS, the prompt masked, cut at max_tokens.

    Prompt and target are tokenised apart, so that the seam is where evaluation puts it. Examples
    whose target was cut away whole are left out; where all are, a DataError is raised.
    """
    rendered = [render(recipe, document, n) for n, document in enumerate(documents, 1)]
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
    if len(examples) < len(rendered):
        logger.warning(
            "%d of %d examples have no target within max_tokens = %d and are left out",
            *(len(rendered) - len(examples), len(rendered), recipe.max_tokens),
        )
    if not examples:
        raise DataError(
            f"no training example has a target within max_tokens = {recipe.max_tokens}",
            fix="raise max_tokens or shorten the prompt",
        )
    return examples


def collate(examples: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """A batch right-padded to its longest example: input_ids, attention_mask, labels (B, T)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(example["input_ids"]) for example in examples]
    labels = [torch.tensor(example["labels"]) for example in examples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
