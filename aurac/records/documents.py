"""`documents/`: the list of examples of each task, which a run's commands share."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import RunFolderError, first_line
from aurac.files import read_json
from aurac.records.lines import DocumentKey

if TYPE_CHECKING:
    from pathlib import Path


class TaskQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """`documents/TASK.json`: the examples of a task for people, and their identities."""

    keys: list[DocumentKey]  #: n identities, as cells name them
    questions: list[str | None] = []  #: n texts; None where the task has none
    targets: list[str | None] = []  #: n texts; None where the task has none
    choices: list[list[str] | None] | None = None  #: n lists of texts; None where there are none
    fields: dict[str, list[str]] = {}  #: field that all examples have → n values, or their hashes


@dataclass(frozen=True)
class Documents:
    """The examples of a run's tasks (no groups), of each of which the files are read once."""

    folder: Path  #: of the run
    told: dict[str, TaskQuestions] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def path(self, task: str, ending: str) -> Path:
        """One of the two files of a task: its questions (json) or its prompts (jsonl.gz)."""
        return self.folder / "documents" / f"{task.replace('/', '_')}.{ending}"

    def __getitem__(self, task: str) -> TaskQuestions:
        """The list of a task; a RunFolderError where it cannot be read."""
        if task not in self.told:
            self.told[task] = read_json(self.path(task, "json"), TaskQuestions)
        return self.told[task]

    def keys(self, task: str) -> list[DocumentKey]:
        """The examples of a task, none where it has no list yet."""
        return self[task].keys if self.path(task, "json").exists() else []

    def changed(self, task: str, keys: Sequence[DocumentKey]) -> list[int]:
        """The places at which the list of a task has another example."""
        both = zip(self.keys(task), keys, strict=False)
        return [place for place, (known, new) in enumerate(both) if known != new]

    def rows(self, task: str) -> list[dict[str, Any]]:
        """What lm-eval's logs say of a task, and then of each of its examples."""
        if task not in self.logs:
            path = self.path(task, "jsonl.gz")
            try:
                with gzip.open(path, "rb") as lines:
                    self.logs[task] = [json.loads(line) for line in lines]
            except (OSError, EOFError, ValueError) as error:
                raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        return self.logs[task]
