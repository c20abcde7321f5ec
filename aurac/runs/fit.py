"""Rescale `fit`: one factor per rank, found on held-out documents, never on the test.

At rank r the scale is s_R times a factor f_r. f_r maximises the mean log-likelihood of the
reference answers of documents from the task's validation split (its training split where it has
none, or where the validation split is what is evaluated).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aurac.adapters import Adapter
from aurac.adapters.truncate import Basis
from aurac.engine import EngineOptions
from aurac.errors import RunFolderError, TaskError
from aurac.files import sha256_json, write_json
from aurac.models.base import LoadedBase
from aurac.records.cell import ENGINE_VERSION, read_record
from aurac.records.store import cannot_write
from aurac.runs.folder import RequestSettings
from aurac.runs.plan import Variant
from aurac.tasks.metrics import Leaf
from aurac.tasks.task import BuiltTask

DOCUMENTS = 48  # per task: the optimum is flat, and each costs a forward pass per factor tried
EXPONENTS = tuple(range(-2, 6))  # factors 1/4 … 32 of s_R; the rule `rank` needs R/r
_FARTHEST = 12  # exponent at which the search for a maximum beyond that grid ends


def held_out_pairs(task: BuiltTask, count: int = DOCUMENTS) -> list[tuple[str, str]]:
    """(context, reference answer) of the last `count` held-out documents, without examples."""
    share = max(1, count // len(task.leaves))
    return [_pair(leaf, doc) for leaf in task.leaves for doc in _documents(leaf)[-share:]]


def _documents(leaf: Leaf) -> list[Any]:
    task = leaf.task
    if task.has_test_docs() and task.has_validation_docs():
        return list(task.validation_docs())
    if task.has_training_docs():
        return list(task.training_docs())
    raise TaskError(
        f"rescale fit: task {leaf.name!r} has no documents beside those that are evaluated",
        expected="a task with a training or validation split",
        fix="use --rescale rule, keep or trained",
    )


def _pair(leaf: Leaf, document: Any) -> tuple[str, str]:
    task = leaf.task
    context, target = task.doc_to_text(document), task.doc_to_target(document)
    choices = task.doc_to_choice(document) if task.config.doc_to_choice is not None else None
    if choices is not None and isinstance(target, int):
        target = choices[target]
    if not isinstance(context, str) or not isinstance(target, str):
        raise TaskError(
            f"rescale fit: task {leaf.name!r} has no single reference answer in text",
            expected="a task whose target is a text or the number of a choice",
            fix="use --rescale rule, keep or trained",
        )
    return context, f"{task.config.target_delimiter}{target}"


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


def fit_factors(
    adapter: Adapter,
    basis: Basis,
    ranks: Sequence[int],
    tasks: Sequence[BuiltTask],
    base: LoadedBase,
    options: EngineOptions,
) -> dict[int, float]:
    """Rank → factor for one adapter in one basis, fitted on held-out documents of all `tasks`."""
    from aurac.engine.backend import Cut, LocalBackend
    from aurac.engine.lm import scoring_requests

    pairs = [pair for task in tasks if not task.members for pair in held_out_pairs(task)]
    asked = scoring_requests(pairs)
    factors: dict[int, float] = {}
    with LocalBackend(base, options) as backend:
        for rank in ranks:

            def objective(factor: float, rank: int = rank) -> float:
                with backend.lm(Cut(adapter, rank, basis, "fit", factor)) as lm:
                    return float(np.mean([value for value, _ in lm.loglikelihood(asked)]))

            factors[rank] = best_factor(objective)
    return factors


def fitted(
    variants: Sequence[Variant],
    tasks: Sequence[BuiltTask],
    base: Callable[[], LoadedBase],
    settings: RequestSettings,
    options: EngineOptions,
    folder: Path,
) -> list[Variant]:
    """The variants, those of rescale `fit` with their factors, which are kept in `folder`.

    `settings` are those of the run's request: other settings have other factors.
    """
    leaves = [task for task in tasks if not task.members]
    pairs = sha256_json([pair for task in leaves for pair in held_out_pairs(task)])
    recorded = settings.to_dict()

    def factors(variant: Variant) -> dict[int, float]:
        paths = {}
        for rank in variant.ranks:
            what = [variant.adapter.sha256, variant.basis, rank, ENGINE_VERSION]
            paths[rank] = folder / f"{sha256_json([*what, recorded, pairs])}.json"
        known = {rank: factor for rank in paths if (factor := _read(paths[rank])) is not None}
        unknown = [rank for rank in paths if rank not in known]
        if unknown:
            member = variant.member(unknown[-1])
            fits = fit_factors(member, variant.basis, unknown, leaves, base(), options)
            known |= {rank: _keep(paths[rank], fits[rank]) for rank in unknown}
        return {rank: known[rank] for rank in variant.ranks}

    return [
        replace(variant, fit_factors=factors(variant)) if variant.rescale == "fit" else variant
        for variant in variants
    ]


class _Factor(msgspec.Struct):
    schema: int
    factor: float


def _read(path: Path) -> float | None:
    try:
        return read_record(path, _Factor).factor
    except RunFolderError:
        return None


def _keep(path: Path, factor: float) -> float:
    """Keep a factor; the one that counts is the one that was kept first."""
    try:
        if path.exists() and _read(path) is None:
            path.unlink()
        write_json(path, {"schema": 1, "factor": factor}, exclusive=True)
    except FileExistsError:
        return _read(path) or factor
    except OSError as error:
        raise cannot_write(path.parent.parent, error) from error
    return factor
