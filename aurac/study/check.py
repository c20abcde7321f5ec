"""Trains some adapters of a finished study again, and compares their cells with those kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aurac.adapters import load_adapter
from aurac.errors import RunFolderError, UsageError
from aurac.readers import read_curves
from aurac.study.plan import rates_in, read_state
from aurac.study.run import StudyRunner
from aurac.study.summary import finished, place_of
from aurac.study.trainings import chosen_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from aurac.study.design import Study
    from aurac.study.trainings import PlannedAdapter

logger = logging.getLogger(__name__)

CHECKS = "check"


class Checked(NamedTuple):
    """One adapter or family that was trained again.

    Attributes:
        task, name: Of the adapter.
        weights: Whether all weights are the same.
        outcomes: Documents × ranks × truncations that were compared.
        different: How many of these have another outcome.
    """

    task: str
    name: str
    weights: bool
    outcomes: int
    different: int


def check_study(
    study: Study,
    path: Path,
    out: Path,
    count: int,
    *,
    device: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
) -> list[Checked]:
    """Train `count` adapters of the results again, evenly spread over the design.

    Args:
        study: The study.
        path: Its file.
        out: Its folder. What is made again lies in `check` below it, and is not made once more.
        count: Adapters; a family counts as one, and all of its adapters are trained.
        device: See `run_study`.
        progress: See `run_study`.
        say: See `run_study`.

    Raises:
        UsageError: More adapters than the study has.
        RunFolderError: The study has no results yet.
        AuracError: See `run_study`.
    """
    state = read_state(out)
    adapters = chosen_adapters(study, path, rates_in(study, state))
    places = {task: place_of(task, state, out) for task in study.tasks}
    for task, place in places.items():
        finished(study, task, adapters, place)
    every = [one for method in adapters.values() for one in method]
    if not 1 <= count <= len(every):
        raise UsageError(f"--check {count}", expected=f"1 to {len(every)}, the study's adapters")
    StudyRunner(study, path, out, device, say, progress=progress).check_data()
    wanted = [every[(2 * k + 1) * len(every) // (2 * count)] for k in range(count)]
    again = StudyRunner(study, path, out / CHECKS, device, say, progress=progress)
    again.train_all(wanted)
    return [row for task, place in places.items() for row in _compared(again, place, task, wanted)]


def _compared(
    again: StudyRunner, place: Path, task: str, wanted: Sequence[PlannedAdapter]
) -> Iterator[Checked]:
    """Evaluate the adapters of a task that were trained again, and compare them."""
    here = [one for one in wanted if one.task == task]
    if not here:
        return
    done = again.compare(task, here, "results")
    kept, made = (_outcomes(folder) for folder in (place, done.folder))
    roots = again.out.parent, again.out
    for one in here:
        keys = [key for key in made if key[0] == one.recipe.name]
        pairs = [(kept[key], made[key]) for key in keys if key in kept]
        if len(pairs) < len(keys) or any(a.shape != b.shape for a, b in pairs):
            raise RunFolderError(
                f"{place} has other documents or ranks of {one.recipe.name}",
                expected="those of the study's file",
                fix="run the study to its end before --check",
            )
        weights = (
            {load_adapter(root / each.folder, lazy=True).sha256 for root in roots}
            for each in one.trainings
        )
        yield Checked(
            task,
            one.recipe.name,
            weights=all(len(hashes) == 1 for hashes in weights),
            outcomes=sum(b.size for _, b in pairs),
            different=sum(int(np.count_nonzero(a != b)) for a, b in pairs),
        )


def _outcomes(folder: Path) -> dict[tuple[str | None, ...], NDArray[np.float64]]:
    """(adapter, basis, rescale) → (K, n) outcomes of a run's curves."""
    curves = read_curves(folder).curves
    return {(c.adapter, c.basis, c.rescale): c.outcomes for c in curves if c.outcomes is not None}
