"""`documents/`: the examples that were asked, and by which rule a curve chooses of their sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Part(NamedTuple):
    """The examples of one task (no group) on which a curve is read: the first ones of a set."""

    task: str
    cells: str  #: the name of its cells in a cut
    stem: str  #: the beginning of the names of its two files
    keys: list[DocumentKey]
    prefix: str  #: of their names in a group, else nothing

    @property
    def labels(self) -> list[str]:
        """The examples as curves name them: in a group with the task before them."""
        return [self.prefix + key.id for key in self.keys]


class Choice(NamedTuple):
    """A set of examples on which a cut, or the base, may be read.

    Attributes:
        parts: The examples, task by task.
        asked: The ranks of the cut that were asked for on them.
        whole: The ranks of the cut that have them all.
    """

    parts: Sequence[Part]
    asked: set[int]
    whole: set[int]

    @property
    def size(self) -> int:
        """How many examples."""
        return sum(len(part.keys) for part in self.parts)

    @property
    def ranks(self) -> list[int]:
        """The ranks of a curve on them."""
        return sorted(self.asked | self.whole)

    def is_of_generation(self, other: Choice) -> bool:
        """Whether one of two sets is the beginning of the other: no example has changed."""
        parts = zip(self.parts, other.parts, strict=True)
        return all(x == y for a, b in parts for x, y in zip(a.keys, b.keys, strict=False))


def choose(sets: Sequence[Choice]) -> Choice | None:
    """The set of examples on which a cut is read; None where no rank has one.

    Of the last generation in which a rank has a whole set, it is the set with the largest product
    of whole ranks and examples; of equal products the larger set.

    Args:
        sets: All that a cut was asked for on, the last one first.
    """
    there = [each for each in sets if each.whole]
    same = [each for each in there if each.is_of_generation(there[0])]
    return max(same, key=lambda each: (len(each.whole) * each.size, each.size), default=None)
