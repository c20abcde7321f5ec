"""Trains some adapters of a finished study again, and compares their cells with those kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aurac.adapters import load_adapter
from aurac.errors import RunFolderError, UsageError
from aurac.readers import read_curves
from aurac.study.design import PlannedAdapter, Study, chosen_adapters
from aurac.study.execution import StudyRunner
from aurac.study.plan import rates_in, read_state
from aurac.study.summary import finished, place_of

Outcomes = dict[tuple[str | None, ...], NDArray[np.float64]]


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

    A family counts as one, and all of its adapters are trained. What is made again lies in `check`
    below the study's folder, and is not made once more. The other arguments are those of
    `run_study`.

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
    most = len(adapters)
    if not 1 <= count <= most:
        raise UsageError(f"--check {count}", expected=f"1 to {most}, the study's adapters")
    StudyRunner(study, path, out, device, say, progress).check_data()
    wanted = [adapters[(2 * k + 1) * most // (2 * count)] for k in range(count)]
    again = StudyRunner(study, path, out / CHECKS, device, say, progress)
    again.train_all(wanted)
    rows = []
    for task, place in places.items():
        if here := [adapter for adapter in wanted if adapter.task == task]:
            made = _outcomes(again.compare(task, here, "results").folder)
            kept, roots = _outcomes(place), (out, again.out)
            rows += [_compared(adapter, kept, made, roots) for adapter in here]
    return rows


def _outcomes(folder: Path) -> Outcomes:
    """(adapter, basis, rescale) → (K, n) outcomes of a run's curves."""
    curves = read_curves(folder).curves
    return {(c.adapter, c.basis, c.rescale): c.outcomes for c in curves if c.outcomes is not None}


def _compared(
    adapter: PlannedAdapter, kept: Outcomes, made: Outcomes, roots: Sequence[Path]
) -> Checked:
    name = adapter.recipe.name
    outcomes = different = 0
    for key in (key for key in made if key[0] == name):
        if key not in kept or kept[key].shape != made[key].shape:
            raise RunFolderError(
                f"{roots[0]} has other documents or ranks of {name}",
                expected="those of the study's file",
                fix="run the study to its end before --check",
            )
        outcomes += made[key].size
        different += int(np.count_nonzero(made[key] != kept[key]))
    hashes = [
        {load_adapter(root / folder, lazy=True).sha256 for root in roots}
        for folder in adapter.trainings
    ]
    return Checked(adapter.task, name, all(len(h) == 1 for h in hashes), outcomes, different)
