"""Names of metrics as users give them: `TASK=NAME,FILTER`, `NAME,FILTER` or `NAME` alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aurac.errors import AuracError, DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

ANY_TASK = "*"
"""The key of a metric that was asked for without naming a task."""


def parse_metrics(values: Iterable[str]) -> dict[str, str]:
    """Metrics by task of ``--metric`` values, ``[TASK=]NAME[,FILTER]``."""
    metrics: dict[str, str] = {}
    for value in values:
        task, equals, key = value.rpartition("=")
        parts = [part.strip() for part in key.split(",")]
        if not all(parts) or len(parts) > 2 or (equals and not task.strip()):
            raise UsageError(
                f"metric {value!r} cannot be read",
                expected="[TASK=]NAME[,FILTER], such as acc_norm or gsm8k=exact_match,strict-match",
            )
        task = task.strip() or ANY_TASK
        if task in metrics:
            where = "every task" if task == ANY_TASK else f"task {task!r}"
            raise UsageError(f"two metrics were given for {where}", fix="give one")
        metrics[task] = ",".join(parts)
    return metrics


def metrics_of(given: str | Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Metrics by task: of a mapping itself, of a text or several as `parse_metrics` reads them."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    return parse_metrics([given] if isinstance(given, str) else given)


def matching(wanted: str, there: Iterable[str]) -> list[str]:
    """The metrics with that name: the one under its filter, or those of any filter."""
    keys = list(there)
    if wanted in keys:
        return [wanted]
    draws, colon, name = wanted.rpartition(":")  # pass@4:acc,none
    return [draws + colon + key for key in keys if name in (key, key.rpartition(",")[0])]


def listed(keys: Iterable[str]) -> str:
    """Metrics in a message, each in quotes: ``name,filter`` has a comma of its own."""
    return ", ".join(map(repr, sorted(keys))) or "no metric"


def _one_of(there: Iterable[str]) -> str:
    keys = [*there]
    return f"one of {listed(keys)}" if keys else "a source that names its metrics"


def check_asked_of_all(
    wanted: str | None, tasks: Mapping[str, Iterable[str]], error: type[AuracError]
) -> None:
    """Warn of tasks, given with their metrics, that lack one asked of all; refuse if all do."""
    without = [task for task, keys in tasks.items() if wanted and not matching(wanted, keys)]
    if without and len(without) == len(tasks):
        there = {key for keys in tasks.values() for key in keys}
        raise error(
            f"no metric {wanted!r} of any task",
            expected=_one_of(there),
            fix="give --metric [TASK=]NAME,FILTER" if there else "leave --metric out",
        )
    if without:
        names = ", ".join(without)
        logger.warning("%s has no metric %s: its default one is used there", names, wanted)


class WantedMetrics:
    """Which metric of each task to read: that which was asked for, or the task's own.

    Args:
        asked: Task (`ANY_TASK`: all) → metric; text is read as by `parse_metrics`.
    """

    def __init__(self, asked: str | Mapping[str, str] | None = None) -> None:
        self.asked = metrics_of(asked)
        self._tasks: dict[str, list[str]] = {}  # with the metrics that are there

    def of(self, task: str | None, there: Iterable[str]) -> str | None:
        """The metric of a task; None for its own, also where it lacks what was asked of all.

        Raises:
            DataError: The task lacks what was asked of it, or has it under several filters.
        """
        name = task or ""
        keys = sorted(there)
        self._tasks[name] = [key for key in self._tasks.get(name, keys) if key in keys]
        wanted = self.asked.get(name, self.asked.get(ANY_TASK))
        same = matching(wanted, keys) if wanted else []
        if len(same) > 1 or (name in self.asked and not same):
            count = f"{len(same)} metrics" if same else "no metric"
            raise DataError(
                f"{name or 'the source'} has {count} {wanted!r}",
                expected=_one_of(same or keys),
                fix="give --metric [TASK=]NAME,FILTER",
            )
        return same[0] if same else None

    def check(self) -> None:
        """When all are read: see `check_asked_of_all`; a task that is not there is refused."""
        for task in sorted(self.asked.keys() - self._tasks.keys() - {ANY_TASK}):
            known = ", ".join(name for name in self._tasks if name) or "no task with a name"
            raise UsageError(f"--metric names {task!r}, which is not there", expected=known)
        rest = {task: keys for task, keys in self._tasks.items() if task not in self.asked}
        check_asked_of_all(self.asked.get(ANY_TASK), rest, DataError)


def asked_metrics(given: str | Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Metrics by task: of a mapping itself, of a text or several as `parse_metrics` reads them."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    return parse_metrics([given] if isinstance(given, str) else given)


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
