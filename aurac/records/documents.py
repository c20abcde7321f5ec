"""`documents/`: the examples that were asked, for people and for lm-eval's logs."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import RunFolderError, first_line
from aurac.files import read_json
from aurac.records.lines import DocumentKey

if TYPE_CHECKING:
    from pathlib import Path


class TaskQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """`documents/…json`: a set of a task's examples for people, and their identities."""

    keys: list[DocumentKey]  #: n identities, as cells name them
    questions: list[str | None] = []  #: n texts; None where the task has none
    targets: list[str | None] = []  #: n texts; None where the task has none
    choices: list[list[str] | None] | None = None  #: n lists of texts; None where there are none
    #: field of the examples → n values, by which they can be clustered: of those fields that were
    #: asked for or have a value twice
    fields: dict[str, list[str]] = {}


@dataclass(frozen=True)
class Documents:
    """The files of a run's examples, each read once, by the beginning of their names."""

    folder: Path  #: of the run
    told: dict[str, TaskQuestions] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __getitem__(self, stem: str) -> TaskQuestions:
        """What is kept of a set of examples; a RunFolderError where it cannot be read."""
        if stem not in self.told:
            self.told[stem] = read_json(self.folder / f"{stem}.json", TaskQuestions)
        return self.told[stem]

    def rows(self, stem: str) -> list[dict[str, Any]]:
        """What lm-eval's logs say of the task of a set, and then of each of its examples."""
        if stem not in self.logs:
            path = self.folder / f"{stem}.jsonl.gz"
            try:
                with gzip.open(path, "rb") as lines:
                    self.logs[stem] = [json.loads(line) for line in lines]
            except (OSError, EOFError, ValueError) as error:
                raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        return self.logs[stem]
