"""Checkpoints of an interrupted training: where they lie, and whether they belong to a recipe."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from aurac.errors import RecipeError, RunFolderError
from aurac.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LOGGING_STEPS = 10  # a loss is the mean over so many optimizer steps
_PREFIX, _STATE, _MADE_BY = "checkpoint-", "trainer_state.json", "recipe.json"


def scratch_folder(folder: Path) -> Path:
    """Where the trainer's checkpoints lie until the adapter in `folder` is whole: beside it."""
    return folder.with_name(folder.name + ".training")


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """(optimizer step, checkpoint) of the newest whole one of the adapter that goes to `folder`."""
    whole = [
        (int(step), path)
        for path in scratch_folder(folder).glob(f"{_PREFIX}*")
        if (step := path.name.removeprefix(_PREFIX)).isdigit()
        and _json(path / _STATE) is not None  # the trainer writes it last
    ]
    return max(whole, default=None)


def refuse_to_start_over(folder: Path) -> None:
    """Raise RunFolderError where a checkpoint would be lost by training from the first step."""
    newest = newest_checkpoint(folder)
    if newest is not None:
        raise RunFolderError(
            f"{newest[1]} is the checkpoint of an interrupted training, at step {newest[0]}",
            expected="a training that goes on there",
            fix="add --resume to go on, or --force to start over without it",
        )


def record_recipe(folder: Path, made_by: dict[str, Any]) -> None:
    """Keep beside the checkpoints what they are made by."""
    write_json(scratch_folder(folder) / _MADE_BY, made_by)


def check_recipe(folder: Path, made_by: dict[str, Any]) -> None:
    """Raise RecipeError where the checkpoints were made by something else; names may differ."""
    before = _json(scratch_folder(folder) / _MADE_BY) or {}
    changed = [
        f"{key} was {before.get(key)!r}, is {made_by.get(key)!r}"
        for key in {**before, **made_by}
        if key != "name" and before.get(key) != made_by.get(key)
    ]
    if changed:
        raise RecipeError(
            f"the checkpoints in {scratch_folder(folder)} are of another training "
            f"({'; '.join(changed)})",
            expected="the same recipe, data and base as before the interruption",
            fix="give the same ones, or remove that folder to start over",
        )


def discard(folder: Path, *, whole: bool) -> None:
    """Remove the checkpoints of `folder`; unless `whole` only where none could be resumed from."""
    if whole or newest_checkpoint(folder) is None:
        shutil.rmtree(scratch_folder(folder), ignore_errors=True)


def mean_losses(log: Iterable[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    """(step, mean loss of the steps since the entry before) at every tenth step and the last.

    The trainer also logs where it saves, so that a resumed training lacks no step; those entries
    are joined here, and the result is that of a training without checkpoints.
    """
    means, total, counted, step = [], 0.0, 0, 0
    for row in log:
        if "loss" not in row:
            continue
        steps, step = row["step"] - step, row["step"]
        total, counted = total + row["loss"] * steps, counted + steps
        if step % LOGGING_STEPS == 0:
            means.append((step, total / counted))
            total, counted = 0.0, 0
    if counted:
        means.append((step, total / counted))
    return tuple(means)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
