"""Many results at once: Holm's adjustment of many tests, and one number over many tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aurac.curves.checks import fractions
from aurac.errors import CurveError
from aurac.stats.mean import Estimate
from aurac.stats.seeds import Components, SeedMeans, estimate_from


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values that keep the family-wise error rate (Holm 1979).

    Sorted ascending, the i-th of m is multiplied by m - i + 1, then made monotone and cut at 1.

    Args:
        p_values: One for each test of the family; None where there was no test, which then does
            not count.

    Returns:
        As many, in the same order, None where None was given.

    Raises:
        CurveError: One that is not finite or outside [0, 1].
    """
    fractions([p for p in p_values if p is not None], "p values")
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, i) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - step) * p))
        adjusted[i] = highest
    return adjusted


def holm_levels(p_values: Sequence[float | None], alpha: float) -> list[float | None]:
    """The level at which Holm's procedure tested each p value; None where None was given.

    Of m tests the one at step i is tested at ``alpha / (m - i)``. At the first that is not
    rejected the procedure stops, so those behind it were held to that step's level too. Equal p
    values have the level of the first of them, whichever order they are given in.
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    levels: list[float | None] = [None] * len(p_values)
    step, before, level = 0, -1.0, alpha
    for p, i in tests:
        here = alpha / (len(tests) - step)
        level = levels[i] = level if p <= before * (1 + 1e-9) else here  # but for rounding
        if step < len(tests) - 1 and p <= here:
            step += 1
        before = p
    return levels


class HolmFamily:
    """A family of tests in which one p value may be tried in the place of another."""

    def __init__(self, p_values: Sequence[float | None]) -> None:
        order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
        self._sorted = np.array([p for p, _ in order])
        self._place = {i: k for k, (_, i) in enumerate(order)}

    def instead(self, at: int, p: float) -> float:
        """What `holm` gives the test `at` when its p value is `p`, the others as they are."""
        others = np.delete(self._sorted, self._place[at])
        smaller = others[: int(np.searchsorted(others, p))]
        steps = others.size + 1 - np.arange(smaller.size)
        highest = float(np.max(steps * smaller, initial=0.0))
        return min(1.0, max(highest, (others.size + 1 - smaller.size) * p))


def weigh(parts: Mapping[str, Components], weights: Mapping[str, float]) -> Components:
    """A weighted sum over tasks whose documents are independent and whose seeds are the same.

    Each seed's checkpoint met every task, so its means are added over tasks, matched by the seed's
    name, before their spread is taken. Tasks with other seeds are refused.
    """
    kinds: dict[bool, str] = {}
    for task, part in parts.items():
        kinds.setdefault(part.paired, task)
    if len(kinds) > 1:
        raise CurveError(
            f"differences are paired by seed on {kinds[True]} and of independent seeds on "
            f"{kinds[False]}",
            expected="the same on all tasks",
            fix="set paired_seeds=False (--independent-seeds)",
        )
    groups = []
    for same in zip(*(part.groups for part in parts.values()), strict=True):
        by_task = dict(zip(parts, same, strict=True))
        rows = _matched(by_task)
        means = np.sum([weights[task] * row for task, row in rows.items()], axis=0)
        rest = sum(weights[task] ** 2 * group.rest for task, group in by_task.items())
        groups.append(SeedMeans(means, rest, same[0].names))
    terms = [(weights[t] ** 2 * p.document, p.document_df) for t, p in parts.items()]
    document = sum(v for v, _ in terms)
    spread = sum(v * v / df for v, df in terms if v > 0 and df > 0)
    df = document * document / spread if spread > 0 else float("inf")  # Satterthwaite's
    value = sum(weights[task] * part.value for task, part in parts.items())
    draws = tuple(
        SeedMeans(weights[task] * draw.seed_means, weights[task] ** 2 * draw.rest, draw.names)
        for task, part in parts.items()
        for draw in part.draws
    )
    excesses = [(weights[t] ** 2, p.excess) for t, p in parts.items() if p.excess is not None]

    def excess(level: float) -> tuple[float, float]:
        ends = [(w * down, w * up) for w, f in excesses for down, up in [f(level)]]
        return sum(down for down, _ in ends), sum(up for _, up in ends)

    together = excess if excesses else None
    return Components(value, tuple(groups), document, df, draws, together, paired=True in kinds)


def _matched(groups: Mapping[str, SeedMeans]) -> dict[str, NDArray[np.float64]]:
    """For each task the seed means of one group, in the order of the first task's seeds."""
    (first_task, first), *_ = groups.items()
    rows = {}
    for task, group in groups.items():
        ours, theirs = first.names, group.names
        if set(ours) != set(theirs) or group.seeds != first.seeds or len(set(ours)) != len(ours):
            raise CurveError(
                f"other seeds on {task} ({_list(group)}) than on {first_task} ({_list(first)})",
                expected="the same seeds on all tasks, since each is matched with itself",
                fix="evaluate every seed on every task, or leave the other seeds out",
            )
        place = {name: i for i, name in enumerate(theirs)}
        rows[task] = group.seed_means[[place[name] for name in ours]]
    return rows


def _list(group: SeedMeans) -> str:
    parts = (name if isinstance(name, tuple) else (name,) for name in group.names)
    return ", ".join(" ".join(str(x) for x in part if x is not None) or "?" for part in parts)


def task_weights(documents: Mapping[str, int], by: str = "tasks") -> dict[str, float]:
    """What each task weighs in an aggregate, summing to 1.

    Args:
        documents: Documents of each task.
        by: "tasks": all alike; "documents": in proportion to their documents.

    Raises:
        CurveError: Another word, or no tasks.
    """
    if not documents:
        raise CurveError("an aggregate of no tasks")
    if by == "tasks":
        return dict.fromkeys(documents, 1.0 / len(documents))
    if by == "documents":
        total = sum(documents.values())
        return {task: n / total for task, n in documents.items()}
    raise CurveError(f"tasks weighed by {by!r}", expected="'tasks' or 'documents'")


def aggregate(
    parts: Mapping[str, Components | None],
    documents: Mapping[str, int],
    *,
    by: str = "tasks",
    level: float = 0.95,
    signed: bool = False,
) -> Estimate:
    """The weighted mean over tasks of a recipe group's AURAC or of a paired difference.

    Tasks have documents of their own, so their document terms add; training seeds are shared, so
    seed means are averaged over tasks, matched by seed, before their spread is taken.

    Args:
        parts: For each task its components (`aurac.stats.components`); None where it is missing.
        documents: Documents of each task.
        by: "tasks" or "documents".
        level: Coverage.
        signed: Whether the numbers are differences, in [-1, 1].

    Raises:
        CurveError: A task is missing, or tasks have other seeds: no aggregate is made.
    """
    absent = [task for task, part in parts.items() if part is None]
    if absent:
        raise CurveError(
            f"no result on {', '.join(absent)}", fix="no aggregate is made of the other tasks"
        )
    weights = task_weights({task: documents[task] for task in parts}, by)
    known = {task: part for task, part in parts.items() if part is not None}
    total = weigh(known, weights)
    about = f"{len(known)} tasks weighing {'the same' if by == 'tasks' else 'by their documents'}"
    return estimate_from(total, level, about, (-1.0 if signed else 0.0, 1.0))
