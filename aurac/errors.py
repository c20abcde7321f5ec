"""Errors that a user can act on: what was given, what was expected, what to do next."""

from __future__ import annotations

import re
import sys

_OPTION = re.compile(
    r"(?<![\w-])--(?P<option>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)"
    r"(?:(?P<space> )(?P<value>'[^']*'|(?!-\D)[^\s;:,)]+(?:,[^\s;:,)]+)*))?"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FLAGS = {"force", "resume", "chat-template", "trust-remote-code", "retry-failed", "profile"}
_OF_COMMANDS = {"until", "budget", "anytime", "json", "set", "save", "pace", "status", "dry-run"}
_KEYWORDS = {"group": "groups", "a-key": "keys['A']", "b-key": "keys['B']", "key-map": "keys"}
_VALUES = {
    *("auto", "ray", "fixed", "base", "adapter", "rule", "keep", "trained", "fit", "matryoshka"),
}
"""Words in small letters that are the value of the option before them."""


class AuracError(Exception):
    """A request or an input that cannot be served; the command line prints it and exits with 2.

    Args:
        given: What was given and why it does not serve, as one clause without a final full stop.
        expected: What would have been accepted.
        fix: What the reader can do next, as an imperative.

    The message is always a single line, so that a terminal and a log show the same thing. Texts
    name options as they are typed (``--nested-ranks``); outside of a command they become the
    keywords of Python (``nested_ranks=``).
    """

    exit_code = 2

    def __init__(self, given: str, *, expected: str | None = None, fix: str | None = None) -> None:
        if not _in_a_command():
            given = in_python(given)
            expected, fix = (text and in_python(text) for text in (expected, fix))
        self.given = given
        self.expected = expected
        self.fix = fix
        parts = [given]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(fix)
        super().__init__(" ".join("; ".join(parts).split()))


def _in_a_command() -> bool:
    click = sys.modules.get("click")
    return click is not None and click.get_current_context(silent=True) is not None


def in_python(text: str) -> str:
    """A text with options as keywords: ``--dtype float32`` → ``dtype='float32'``.

    Commands between backticks stay, and so do options that only commands have.
    """
    parts = text.split("`")
    return "`".join(
        _OPTION.sub(_keyword, part) if k % 2 == 0 else part for k, part in enumerate(parts)
    )


def _keyword(match: re.Match[str]) -> str:
    option, value = match["option"], match["value"] or ""
    if option in _OF_COMMANDS:
        return match[0]
    name = _KEYWORDS.get(option, option.replace("-", "_"))
    if option in _FLAGS:
        return f"{name}=True{match['space'] or ''}{value}"
    if value.startswith("'") or _NUMBER.fullmatch(value):
        return f"{name}={value}"
    if value in _VALUES or (value and not value.isalpha()) or value.isupper():
        return f"{name}='{value}'"
    return f"{name}={match['space'] or ''}{value}"


def first_line(error: BaseException) -> str:
    """The first line of a library's error, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class CurveError(AuracError):
    """A rank-accuracy curve that cannot be integrated, or two that cannot be compared."""


class CheckpointError(AuracError):
    """A checkpoint that is missing, damaged, of an unknown format, or not for this base."""


class CellError(AuracError):
    """A cell that has no value: the model's answers are no numbers, or cannot be judged."""


class RankError(AuracError):
    """A rank that the adapter does not have."""


class BaseModelError(AuracError):
    """A base model that cannot be found, fetched or loaded."""


class TaskError(AuracError):
    """A task that lm-eval does not know, or a metric that the task does not report."""


class DataError(AuracError):
    """Local data (a task's split, a training set, a table of outcomes) that cannot be used."""


class RecipeError(AuracError):
    """A training recipe with an unknown key or a value out of range."""


class DivergedError(RecipeError):
    """A training whose loss is not finite."""


class RunFolderError(AuracError):
    """A run folder that holds something else, or a result file that cannot be read."""


class UsageError(AuracError):
    """Options that do not go together."""


class OptionError(UsageError, TypeError):
    """An option that a function does not have, and the nearest that it has."""
