"""Errors that users cause; the command line prints one as a line and exits with its code."""

from __future__ import annotations


class AuracError(Exception):
    """A request or an input that would give a wrong number or lose work; one sentence."""

    exit_code = 2


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
    """A training recipe or study with an unknown key or a value out of range."""


class DivergedError(RecipeError):
    """A training whose loss is not finite."""


class RunFolderError(AuracError):
    """A run folder that holds something else, or a result file that cannot be read."""


class UsageError(AuracError):
    """Options that do not go together."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error; of one of the system its text without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
