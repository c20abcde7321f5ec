"""Names of metrics as users give them: `TASK=NAME,FILTER`, `NAME,FILTER` or `NAME` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aurac.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY_TASK = "*"
"""The key of a metric that was asked for without naming a task."""


TOKENS, WHOLE, LOSS = "token_accuracy", "whole_completion", "loss"
"""Metrics of a user's own examples: the share of tokens, of completions, and the nats per token."""


def asked_metrics(given: str | Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Metrics by task: of a mapping itself, else of one or several ``[TASK=]NAME[,FILTER]``."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    metrics: dict[str, str] = {}
    for value in [given] if isinstance(given, str) else given:
        task, equals, key = value.rpartition("=")
        parts = [part.strip() for part in key.split(",")]
        if not all(parts) or len(parts) > 2 or (equals and not task.strip()):
            raise UsageError(f"The metric {value!r} is no [TASK=]NAME[,FILTER].")
        task = task.strip() or ANY_TASK
        if task in metrics:
            raise UsageError(f"Two metrics were given for {task}.")
        metrics[task] = ",".join(parts)
    return metrics


def matching(wanted: str, there: Iterable[str]) -> list[str]:
    """The metrics with that name: the one under its filter, or those of any filter."""
    keys = list(there)
    return [wanted] if wanted in keys else [k for k in keys if k.rpartition(",")[0] == wanted]


def wanted_metric(asked: Mapping[str, str], task: str, there: Iterable[str]) -> str | None:
    """The metric that was asked of a task; None for its own, also where it lacks one asked of all.

    Raises:
        DataError: The task lacks what was asked of it, or has it under several filters.
    """
    keys = sorted(there)
    wanted = asked.get(task, asked.get(ANY_TASK))
    same = matching(wanted, keys) if wanted else []
    if len(same) > 1 or (task in asked and not same):
        known = ", ".join(map(repr, same or keys)) or "none with a name"
        raise DataError(f"{task or 'The source'} has no one metric {wanted!r}, but {known}.")
    return same[0] if same else None


def check_asked(asked: Mapping[str, str], tasks: Mapping[str, Iterable[str]]) -> None:
    """Refuse a metric of a task that is not there, or one of all tasks that none has."""
    for task in asked.keys() - tasks.keys() - {ANY_TASK}:
        raise UsageError(f"--metric names {task}, which is not there.")
    wanted = asked.get(ANY_TASK)
    if wanted and not any(matching(wanted, there) for there in tasks.values()):
        known = ", ".join(sorted({repr(key) for there in tasks.values() for key in there}))
        raise DataError(f"No task has a metric {wanted!r}; there are {known or 'none with names'}.")
