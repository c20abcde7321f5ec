"""Errors that a user can act on: what was given, what was expected, what to do next."""

from __future__ import annotations


class AuracError(Exception):
    """A request or an input that cannot be served; the command line prints it and exits with 2.

    Args:
        given: What was given and why it does not serve, as one clause without a final full stop.
        expected: What would have been accepted.
        fix: What the reader can do next, as an imperative.

    The message is always a single line, so that a terminal and a log show the same thing.
    """

    exit_code = 2

    def __init__(self, given: str, *, expected: str | None = None, fix: str | None = None) -> None:
        self.given = given
        self.expected = expected
        self.fix = fix
        parts = [given]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(fix)
        super().__init__(" ".join("; ".join(parts).split()))


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
