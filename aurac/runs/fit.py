"""Rescale `fit`: a factor for each rank and task, found on held-out examples, never on the test.

At rank r the scale is s_R times a factor f_r. f_r maximises the mean log-likelihood of the
reference answers of the last examples of the task's validation split, or of its training split
where all of those are evaluated. The prompts are those of the evaluation. The tasks of a group that
was asked for share a factor.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend
from aurac.curves.question import Key
from aurac.errors import CellError
from aurac.files import sha256_json, write_json
from aurac.records.cells import writing
from aurac.runs.inputs import Inputs
from aurac.runs.plan import FitFactors

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask

EXAMPLES = 48  # of a task or group: the optimum is flat, and each costs a pass per factor tried
EXPONENTS = tuple(range(-2, 6))  # factors 1/4 … 32 of s_R; the rule `rank` needs R/r
_PAUSE_SECONDS = 1.0  # between rounds in which others hold all factors
_FARTHEST = 12  # exponent at which the search for a maximum beyond that grid ends


def best_factor(objective: Callable[[float], float], exponents: Sequence[int] = EXPONENTS) -> float:
    """The factor 2^e with the largest objective: a grid over e, then the vertex of a parabola.

    While the best grid point is at an end, the grid grows there, to 2^-12 and 2^12 at most. The
    parabola goes through the best grid point and its neighbours. A factor with which the model's
    answers are no numbers has the objective -inf.

    Raises:
        CellError: All of them have.
    """
    values = {e: objective(2.0**e) for e in exponents}
    best = max(values, key=values.__getitem__)
    while abs(best) < _FARTHEST and (beyond := {best - 1, best + 1} - values.keys()):
        values |= {e: objective(2.0**e) for e in beyond}
        best = max(values, key=values.__getitem__)
    if values[best] == -math.inf:
        raise CellError("the model's answers are no numbers with any factor")
    below, top, above = (values.get(best + step, -math.inf) for step in (-1, 0, 1))
    bend = below - 2 * top + above
    shift = 0.5 * (below - above) / bend if -math.inf < bend < 0 else 0.0
    return float(2.0 ** (best + shift))


@dataclass(frozen=True, eq=False)
class Fit:
    """A factor that a run needs: of a rank, for a task or group that was asked for."""

    curve_key: Key
    cut: Cut
    asked: str
    pairs: Sequence[tuple[str, str]]  #: (prompt, reference answer) of the held-out examples

    def best(self, backend: Backend) -> float:
        """Find it."""
        from aurac.engine.lm import scoring_requests

        requests = scoring_requests(self.pairs)

        def objective(factor: float) -> float:
            try:
                with backend.lm(replace(self.cut, factor=factor)) as lm:
                    return float(np.mean([value for value, _ in lm.loglikelihood(requests)]))
            except CellError:
                return -math.inf

        return best_factor(objective)


def held_out(tasks: Sequence[EvalTask]) -> list[tuple[str, str]]:
    """(prompt, reference answer) of `EXAMPLES` examples, shared out evenly among the tasks."""
    share, more = divmod(EXAMPLES, len(tasks))
    counts = [share + (at < more) for at in range(len(tasks))]
    return [p for task, n in zip(tasks, counts, strict=True) if n for p in task.held_out(n)]


def fits(inputs: Inputs) -> dict[str, Fit]:
    """All factors that a run needs, by a hash of what decides each."""
    found, curve_keys = dict[str, Fit](), [k for k in inputs.cuts if k.rescale == "fit"]
    asked: dict[str, list[EvalTask]] = {}
    for task in inputs.leaves if curve_keys else ():
        asked.setdefault(task.group or task.name, []).append(task)
    for name, tasks in asked.items():
        pairs = held_out(tasks)
        about = sha256_json([inputs.digest, inputs.tokens, pairs])
        for curve_key in curve_keys:
            for cut in inputs.cuts[curve_key].values():
                what = cut.adapter.sha256, cut.basis, cut.rank, about, name
                found[sha256_json(what)[:32]] = Fit(curve_key, cut, name, pairs)
    return found


def fitted(
    inputs: Inputs, find: Callable[[Sequence[str]], Iterable[float]] | None = None
) -> FitFactors:
    """The factors of rescale `fit`, which are kept in the run folder, each under a lock.

    `find` finds all that no other process holds at once, by their hashes, such as on a cluster;
    without it they are found one by one in this process.
    """
    wanted, folder = fits(inputs), inputs.folder
    files = {key: folder.path / "fit" / f"{key}.json" for key in wanted}
    while left := [key for key in wanted if not files[key].exists()]:
        with contextlib.ExitStack() as locks:
            mine: list[str] = []
            for key in left:
                if (find or not mine) and (lock := folder.take(key)):
                    locks.callback(lock.release)
                    mine += [] if files[key].exists() else [key]
            found = find(mine) if find else (wanted[key].best(inputs.backend) for key in mine)
            for key, factor in zip(mine, found, strict=True):
                with writing(folder.path):
                    write_json(files[key], {"factor": factor})
        if not mine:
            time.sleep(_PAUSE_SECONDS)
    factors = {key: float(json.loads(file.read_bytes())["factor"]) for key, file in files.items()}
    return {(fit.curve_key, fit.cut.rank, fit.asked): factors[key] for key, fit in wanted.items()}
