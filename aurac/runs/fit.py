"""Rescale `fit`: one factor per rank, found on held-out examples, never on the test.

At rank r the scale is s_R times a factor f_r. f_r maximises the mean log-likelihood of the
reference answers of the last examples of the task's validation split, or of its training split
where all of those are evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aurac.adapters.cut import Sweep
from aurac.backends.backend import Backend
from aurac.files import sha256_json, write_json
from aurac.runs.inputs import Inputs

EXAMPLES = 48  # per run: the optimum is flat, and each costs a forward pass per factor tried
EXPONENTS = tuple(range(-2, 6))  # factors 1/4 … 32 of s_R; the rule `rank` needs R/r
_FARTHEST = 12  # exponent at which the search for a maximum beyond that grid ends


def best_factor(objective: Callable[[float], float], exponents: Sequence[int] = EXPONENTS) -> float:
    """The factor 2^e with the largest objective: a grid over e, then the vertex of a parabola.

    While the best grid point is at an end, the grid grows there, to 2^-12 and 2^12 at most. The
    parabola goes through the best grid point and its neighbours.
    """
    values = {e: objective(2.0**e) for e in exponents}
    while True:
        best = max(values, key=lambda e: values[e])
        beyond = [e for e in (best - 1, best + 1) if e not in values]
        if not beyond or abs(best) >= _FARTHEST:
            break
        values |= {e: objective(2.0**e) for e in beyond}
    if beyond:
        return 2.0**best
    below, top, above = values[best - 1], values[best], values[best + 1]
    bend = below - 2 * top + above
    shift = 0.5 * (below - above) / bend if bend < 0 else 0.0
    return float(2.0 ** (best + shift))


def fitted(inputs: Inputs, folder: Path) -> list[Sweep]:
    """The sweeps, those of rescale `fit` with their factors, which are kept in `folder`."""
    if all(sweep.rescale != "fit" for sweep in inputs.sweeps):
        return list(inputs.sweeps)
    share = max(1, EXAMPLES // len(inputs.leaves))
    pairs = [pair for task in inputs.leaves for pair in task.held_out(share)]
    about = [inputs.digest, inputs.tokens, pairs]
    return [
        replace(
            sweep,
            factors={
                r: _factor(sweep, r, pairs, inputs.backend, about, folder) for r in sweep.ranks
            },
        )
        if sweep.rescale == "fit"
        else sweep
        for sweep in inputs.sweeps
    ]


def _factor(
    sweep: Sweep, rank: int, pairs: Any, backend: Backend, about: Any, folder: Path
) -> float:
    """A factor that is kept, or found now; the one that counts is the one kept first."""
    sha256 = sweep.adapter.member(rank).sha256
    path = folder / f"{sha256_json([sha256, sweep.basis, rank, about])[:32]}.json"
    if not path.exists():
        from aurac.engine.lm import scoring_requests

        requests = scoring_requests(pairs)

        def objective(factor: float) -> float:
            with backend.lm(replace(sweep, factors={rank: factor}).at(rank)) as lm:
                return float(np.mean([value for value, _ in lm.loglikelihood(requests)]))

        factor = best_factor(objective)
        if not path.exists():
            write_json(path, {"factor": factor})
    return float(json.loads(path.read_bytes())["factor"])
