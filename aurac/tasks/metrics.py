"""Which of a task's metrics is compared, and how the task makes scores of answers.

lm-eval reports several ``name,filter`` for most tasks. AURAC is a mean over examples: a metric that
can be used is aggregated by the plain mean, lies in [0, 1] for each example, and more of it is
better. Perplexities have no AURAC.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aurac.curves.metrics import DEFAULTS, matching
from aurac.errors import TaskError
from aurac.files import sha256_json

SCORING_PARTS = (
    *("filter_list", "metric_list", "process_results", "doc_to_target", "doc_to_choice"),
    "doc_to_text",
)
"""What of a task's configuration makes scores of answers."""

_OF_LM_EVAL = ("lm_eval.api.", "builtins", "abc")  # the version of lm-eval is in a cell's identity
_SCORING_DIGITS = 8


def usable_metrics(task: Any) -> dict[str, bool]:
    """``name,filter`` of lm-eval's task → whether it can be compared.

    It can where it is a mean over examples of which more is better, or a perplexity.
    """
    from lm_eval.api.metrics import mean

    better, rolling = task.higher_is_better(), task.OUTPUT_TYPE == "loglikelihood_rolling"
    return {
        f"{name},{ensemble.name}": rolling or (aggregation is mean and bool(better.get(name, True)))
        for name, aggregation in task.aggregation().items()
        for ensemble in task._filters
    }


def choose_metric(task: str, reported: Mapping[str, bool], wanted: str | None = None) -> str:
    """The metric of a task that is compared: ``wanted``, a key or its name, else the default.

    ``reported`` says of every ``name,filter`` whether it can be compared.

    Raises:
        TaskError: It has none of that name, several, none by default, or one that is no mean.
    """
    usable = [key for key, good in reported.items() if good]
    default = [key for key in DEFAULTS if key in usable][:1] or usable
    keys = matching(wanted, reported) if wanted else default
    if len(keys) == 1 and reported[keys[0]]:
        return keys[0]
    if not usable:
        there = "; ".join(reported)
        raise TaskError(f"Task {task} reports {there}: none is a mean of which more is better.")
    what = f"has {'several' if keys else 'no'} {wanted}" if wanted else "has no default metric"
    if len(keys) == 1:
        what, keys = f"has {keys[0]}, which is not a mean of which more is better", usable
    choice = "; ".join(keys or usable)
    raise TaskError(f"Task {task} {what}: give --metric {task}=NAME,FILTER, one of {choice}.")


def plain(value: Any) -> Any:
    """As lm-eval's own JSON has it: numpy's numbers as numbers, the unknown as text."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return str(value)


def scoring_of(task: Any) -> str:
    """Of lm-eval's task object: a hash of each of `SCORING_PARTS` and its class, joined by `-`.

    A stored cell is of use only while its task scores as it did. A function stands for the file
    that defines it, so that what it calls there counts too; what that file imports does not.
    """
    parts = {name: getattr(task.config, name, None) for name in SCORING_PARTS}
    kinds = type(task).__mro__
    parts["class"] = [kind for kind in kinds if not kind.__module__.startswith(_OF_LM_EVAL)]
    return "-".join(sha256_json(_stable(part))[:_SCORING_DIGITS] for part in parts.values())


def _stable(value: Any) -> Any:
    """A value of a configuration as JSON, the same on every machine."""
    if isinstance(value, dict):
        return {str(key): _stable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, partial):
        return [_stable(value.func), _stable(value.args), _stable(value.keywords)]
    if callable(value):
        return _code(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _code(function: Any) -> list[str]:
    """Name and source of a function, class or object that can be called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    try:
        source = Path(inspect.getfile(named)).read_text(encoding="utf-8")
    except (OSError, TypeError, ValueError):  # of a built-in, or made in an interpreter
        source = str(named.__module__)
    return [named.__qualname__, source]
