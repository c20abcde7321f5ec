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


DEFAULTS = (
    f"{WHOLE},none",
    "acc,none",
    "exact_match,strict-match",
    "exact_match,none",
    "exact_match,flexible-extract",
    "acc_norm,none",
    "word_perplexity,none",
)
"""The ``name,filter`` to take where none was asked for; the first that is reported wins.

``exact_match,strict-match`` (gsm8k) and ``acc,none`` are those of the MatryoshkaLoRA research code;
the others serve tasks that report neither.
"""


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


def wanted_metrics(asked: Mapping[str, str], tasks: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Task → the metric that was asked of it; a task that lacks one asked of all is left out.

    Raises:
        UsageError: A task that is not there.
        DataError: A task lacks what was asked of it, or has it under several filters; or no task
            has what was asked of all.
    """
    for task in asked.keys() - tasks.keys() - {ANY_TASK}:
        raise UsageError(f"There is no task {task!r}; there are {', '.join(tasks)}.")
    chosen: dict[str, str] = {}
    for task, there in tasks.items():
        keys, wanted = sorted(there), asked.get(task, asked.get(ANY_TASK))
        same = matching(wanted, keys) if wanted else []
        if len(same) > 1 or (task in asked and not same):
            known = ", ".join(map(repr, same or keys)) or "none with a name"
            raise DataError(f"{task or 'The source'} has no one metric {wanted!r}, but {known}.")
        if same:
            chosen[task] = same[0]
    if asked.get(ANY_TASK) and not chosen:
        known = ", ".join(sorted({repr(key) for there in tasks.values() for key in there}))
        wanted = asked[ANY_TASK]
        raise DataError(f"No task has a metric {wanted!r}; there are {known or 'none with names'}.")
    return chosen
