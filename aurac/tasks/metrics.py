"""Which of the metrics a task reports is "accuracy", the number that is integrated over ranks.

lm-eval has no primary metric: it reports ``name,filter`` keys, several for most tasks. AURAC is a
mean over documents of a per-document area, so only a metric that lm-eval itself aggregates with
the plain mean, that lies in [0, 1] for each document, and of which more is better, can be used.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from aurac.errors import TaskError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy import float64
    from numpy.typing import NDArray

ANY_TASK = "*"
"""The key of a metric that was asked for without naming a task."""

DEFAULTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gsm8k*", ("exact_match,strict-match",)),
    (ANY_TASK, ("acc,none", "exact_match,strict-match", "exact_match,none")),
)
"""Task-name pattern and the keys to take, first one reported wins; first pattern that serves wins.

The first two lines are those of the MatryoshkaLoRA research code: ``exact_match,strict-match`` for
gsm8k and ``acc,none`` elsewhere (arc, hellaswag, winogrande, mmlu, openbookqa). The other two serve
generative tasks, which report no ``acc``.
"""


def parse_metrics(values: Iterable[str]) -> dict[str, str]:
    """Reads ``--metric`` values, ``TASK=NAME,FILTER`` or ``NAME,FILTER`` for every task.

    Args:
        values: What was given, one string for each use of the option.

    Returns:
        Task name (or :data:`ANY_TASK`) to metric key.

    Raises:
        UsageError: A value is not of that form, or one task has two.
    """
    chosen: dict[str, str] = {}
    for value in values:
        task, equals, key = value.rpartition("=")
        name, comma, chain = key.partition(",")
        if not (name.strip() and comma and chain.strip()) or (equals and not task.strip()):
            raise UsageError(
                f"metric {value!r} cannot be read",
                expected="TASK=NAME,FILTER or NAME,FILTER, such as gsm8k=exact_match,strict-match",
            )
        task = task.strip() or ANY_TASK
        if task in chosen:
            where = "every task" if task == ANY_TASK else f"task {task!r}"
            raise UsageError(f"two metrics were given for {where}", fix="give one")
        chosen[task] = f"{name.strip()},{chain.strip()}"
    return chosen


def choose_metric(task: str, reported: Mapping[str, bool], asked: str | None = None) -> str:
    """The metric of a task that is integrated.

    Args:
        task: Name of the task, in lm-eval's spelling.
        reported: Every ``name,filter`` key the task reports, and whether it can be integrated
            (aggregated by the mean, more is better).
        asked: The key that was asked for; None takes the default of the task's family.

    Returns:
        One key of ``reported``.

    Raises:
        TaskError: The task does not report ``asked``, or it cannot be integrated, or the defaults
            do not serve and more than one metric could be meant.
    """
    usable = [key for key, integrable in reported.items() if integrable]
    if asked is not None:
        return _asked(task, reported, usable, asked)
    for pattern, keys in DEFAULTS:
        for key in keys:
            if fnmatchcase(task, pattern) and reported.get(key):
                return key
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise TaskError(
            f"task {task!r} reports {_listed(reported)}, and none of them is a per-document "
            "score that is averaged and of which more is better",
            fix="choose a task with an accuracy",
        )
    raise TaskError(
        f"task {task!r} has no default metric",
        expected=f"one of {_listed(usable)}",
        fix=f"name one with --metric {task}=NAME,FILTER",
    )


def _asked(task: str, reported: Mapping[str, bool], usable: list[str], asked: str) -> str:
    if asked not in reported:
        raise TaskError(
            f"task {task!r} does not report the metric {asked!r}",
            expected=f"one of {_listed(usable or reported)}",
        )
    if not reported[asked]:
        raise TaskError(
            f"metric {asked!r} of task {task!r} is not a mean over documents of which more is "
            "better, so it cannot be integrated",
            expected=f"one of {_listed(usable)}" if usable else None,
        )
    return asked


def check_scores(task: str, key: str, scores: NDArray[float64]) -> None:
    """Sees that the metric which is integrated lies in [0, 1] for every document.

    Args:
        task: Name of the task.
        key: The metric's key.
        scores: (n,) one score for each document.

    Raises:
        TaskError: A score lies outside.
    """
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        raise TaskError(
            f"metric {key!r} of task {task!r} runs from {low:g} to {high:g} over the documents",
            expected="a score in [0, 1] for each document",
            fix=f"name another metric with --metric {task}=NAME,FILTER",
        )


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "no metric"
