"""Looks for the examples of the tasks in the training data of the adapters.

An accuracy on examples that were trained on says little about new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock

from aurac.adapters import Adapter, members_of
from aurac.errors import DataError, RecipeError
from aurac.records.cells import writing
from aurac.records.folder import RunFolder
from aurac.records.overlap import Overlap, add_overlaps
from aurac.runs.inputs import Inputs

logger = logging.getLogger(__name__)

Texts = list[tuple[str, str]]
"""n examples, each as a prompt and a completion."""


def overlaps(inputs: Inputs) -> list[Overlap]:
    """What the tasks share with the files of `trained_on`, and with what recipes record.

    Raises:
        DataError: A file of `trained_on` that holds no examples.
    """
    from aurac.tasks.own_data import prompts_and_completions

    tokenizer, found = inputs.base.tokenizer, list[Overlap]()
    files = {p: prompts_and_completions(Path(p), tokenizer) for p in inputs.settings.trained_on}
    recorded: dict[str, tuple[str, Texts] | None] = {}
    for each in inputs.adapters.values():
        data = list(files.items())
        for member in () if files else members_of(each):
            sha256 = str((member.recipe or {}).get("sha256"))
            if sha256 not in recorded:
                recorded[sha256] = _recorded(member)
            data += filter(None, [recorded[sha256]])
        found += _found(inputs, each.sha256, dict(data))
    return [each for each in found if files or each.same or each.prompts]


def keep_overlaps(folder: RunFolder, found: Iterable[Overlap]) -> None:
    """Add them to the run folder."""
    with writing(folder.path), FileLock(folder.locks / "run.lock"):
        add_overlaps(folder.path, found)


def _recorded(adapter: Adapter) -> tuple[str, Texts] | None:
    """What an adapter's training data are called and hold; None where they cannot be had here."""
    from aurac.training.data import identified, render, source_rows
    from aurac.training.recipe import SETTINGS, make_recipe

    if adapter.recipe is None or str(adapter.recipe.get("data")).startswith("hub:"):
        return None
    try:
        recipe = make_recipe({k: adapter.recipe[k] for k in SETTINGS if k in adapter.recipe})
        rows = source_rows(recipe)
        identified(recipe, rows)
    except (DataError, RecipeError) as error:
        logger.warning("%s: its training data cannot be looked at (%s)", adapter.name, error)
        return None
    rows = rows[: recipe.documents or None]
    trained = rows[: len(rows) - recipe.validation]
    texts = [render(recipe, row, number) for number, row in enumerate(trained, 1)]
    return recipe.data or f"{recipe.task}, train", texts


def _found(inputs: Inputs, adapter: str, data: dict[str, Texts]) -> Iterator[Overlap]:
    end = inputs.base.tokenizer.eos_token or ""

    def plain(text: str) -> str:
        return text.strip().removesuffix(end).strip()

    for name, texts in data.items():
        trained = {(plain(prompt), plain(completion)) for prompt, completion in texts}
        prompts = {prompt for prompt, _ in trained}
        for task in inputs.leaves:
            asked = [
                (plain(row["question"]), plain(str(row["target"])))
                for row in task.questions()
                if isinstance(row["question"], str)
            ]
            same = sum(each in trained for each in asked)
            known = sum(prompt in prompts for prompt, _ in asked)
            counts = {"examples": len(task), "same": same, "prompts": known - same}
            yield Overlap(task=task.name, adapter=adapter, data=name, **counts)
