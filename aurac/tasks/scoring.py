"""How a task makes scores of answers, as a hash.

A stored cell is of use only while its task scores as it did. A function stands for the file that
defines it, so that what it calls there counts too; what that file imports does not.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from aurac.files import sha256_json

SCORING_PARTS = (
    *("filter_list", "metric_list", "process_results", "doc_to_target", "doc_to_choice"),
    "doc_to_text",
)
"""What of a task's configuration makes scores of answers."""

_OF_LM_EVAL = ("lm_eval.api.", "builtins", "abc")  # the version of lm-eval is in a cell's identity
_DIGITS = 8


def scoring_of(task: Any) -> str:
    """Of lm-eval's task object: a hash of each of `SCORING_PARTS` and its class, joined by `-`."""
    parts = {name: getattr(task.config, name, None) for name in SCORING_PARTS}
    kinds = type(task).__mro__
    parts["class"] = [kind for kind in kinds if not kind.__module__.startswith(_OF_LM_EVAL)]
    return "-".join(sha256_json(_plain(part))[:_DIGITS] for part in parts.values())


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON, the same on every machine."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
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
