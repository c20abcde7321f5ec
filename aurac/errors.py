"""Errors that a user can act on: what was given, what was expected, what to do next."""

from __future__ import annotations

import re

_WORDS = "auto|ray|fixed|base|adapter|rule|keep|trained|fit|common|matryoshka|nan|inf"
_OPTION = re.compile(
    r"(?<![\w-])--(?P<option>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)"
    rf"(?: (?P<value>'[^']*'|(?!-(?!inf\b)\D|(?!(?:{_WORDS})\b)[a-z]+,?(?:[\s;:)]|$))"
    r"[^\s;:,)]+(?:,[^\s;:,)]+)*))?"
)
"""An option, and what follows if it is a value: one of `_WORDS`, or no word in small letters."""
_IN_PYTHON = {  # what is said of a command → of the function, or where to type it
    " of `aurac score`": "",
    "`aurac compare … --out FOLDER`": "`aurac.compare(…, out=FOLDER)`",
    "`aurac score FILE`": "`aurac.score(FILE)`",
    "`aurac compare`": "`aurac.compare`",
    "`aurac tasks`": "`aurac tasks` in a shell",
    "`aurac tasks WORD`": "`aurac tasks WORD` in a shell",
    "--metric [TASK=]NAME,FILTER": "metric='NAME,FILTER' or 'TASK=NAME,FILTER'",
    "--shard $SLURM_ARRAY_TASK_ID/8": "shard=f\"{os.environ['SLURM_ARRAY_TASK_ID']}/8\"",
}
_FLAGS = {"force", "resume", "chat-template", "trust-remote-code", "retry-failed", "profile"}
_OF_COMMANDS = {"until", "budget", "anytime", "json", "save", "pace", "status", "dry-run"}
_KEYWORDS = {"group": "groups", "a-key": "keys['A']", "b-key": "keys['B']", "key-map": "keys"}


class AuracError(Exception):
    """A request or an input that cannot be served; the command line prints it and exits with 2.

    Args:
        given: What was given and why it does not serve, as one clause without a final full stop.
        expected: What would have been accepted.
        fix: What the reader can do next, as an imperative.

    The message is a single line. Its parts and `text` name options as they are typed
    (``--nested-ranks``); `str` of the error names them as keywords of Python (``nested_ranks=``).
    """

    exit_code = 2

    def __init__(self, given: str, *, expected: str | None = None, fix: str | None = None) -> None:
        self.given = given
        self.expected = expected
        self.fix = fix
        parts = (given, expected and f"expected {expected}", fix)
        self.text = " ".join("; ".join(part for part in parts if part).split())
        super().__init__(in_python(self.text))


def in_python(text: str) -> str:
    """A text with options as keywords: ``--dtype float32`` → ``dtype='float32'``.

    Commands between backticks stay, and so do options that only commands have; whose keyword it is
    goes, since the function that was called has it.
    """
    for command, function in _IN_PYTHON.items():
        text = text.replace(command, function)
    text = re.sub(r"`aurac compare ([^`]+) --tasks TASK`", r"`aurac.compare('\1', 'TASK')`", text)
    parts = text.split("`")
    parts[::2] = [_OPTION.sub(_keyword, part) for part in parts[::2]]
    return "`".join(parts)


def _keyword(match: re.Match[str]) -> str:
    option, value = match["option"], match["value"] or ""
    if option in _OF_COMMANDS or (option == "set" and not value):
        return match[0]
    if option == "set":  # --set rank=8
        return value
    name = _KEYWORDS.get(option, option.replace("-", "_"))
    if option in _FLAGS:
        return f"{name}=True{match[0].removeprefix('--' + option)}"
    plain = re.fullmatch(r"|(?s:'.*)|True|False|None|-?(\d+(\.\d+)?(e[+-]?\d+)?|nan|inf)", value)
    return f"{name}={value}" if plain else f"{name}='{value}'"


def first_line(error: BaseException) -> str:
    """The first line of a library's error, or its type where it says nothing.

    An error of the system is said without the path, which messages name.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
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
