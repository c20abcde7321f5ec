"""What is asked of curves: one record for every command, report and library call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from aurac.curves.checks import as_json, check_level, check_ranks, refused
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

ALL_PAIRS = "all"


class Key(NamedTuple):
    """Which row it is.

    Attributes:
        adapter: the adapter, or the recipe of several seeds
        basis: prefix or svd
        rescale: rule, keep, trained or fit
    """

    adapter: str
    basis: str | None = None
    rescale: str | None = None


class Renamed(NamedTuple):
    """A cut of an adapter of a run on one task, under another name."""

    name: str
    adapter: str
    task: str
    basis: str
    rescale: str


class Question(msgspec.Struct, frozen=True):
    """A view of a run, and what is asked of it.

    Attributes:
        margin: The accuracy that a smaller rank may lose, a fraction; None recommends nothing.
        reference: The row that all others are compared with; "all" compares all pairs. None does
            so too where no task has more than six rows; with more, the first row given is the
            reference, whatever the scores are.
        level: Coverage of the intervals.
        groups: Recipe → adapters that are its training seeds.
        pairs: The rows that are compared, by key or name, in the place of `reference`; empty: as
            that says.
        family: How many comparisons the intervals and p values hold for together; None: as many as
            stand in a table.
        ranks: Those over which AURAC is taken; a row that lacks one has none. Empty: all ranks that
            the complete rows of a task have.
        tasks: The tasks that are shown; empty: all.
        limit: The first so many examples of each task's list; None: all of it.
        metrics: Task or group → the ``metric,filter`` that is its accuracy; others keep their own.
        clusters: Task (no group) → the field of its examples by which they are clustered.
        labels: Adapter or row → what tables and figures call it.
        title: What the experiment asks, in a sentence that stands at the top of a report.
        primary: The comparisons that it was made for, which come first in a report; `family` is
            theirs.
        rows: The cuts of adapters that are rows, in this order and under these names; empty: all,
            under their own.
        notes: What else a reader of a report should know, a sentence each.
    """

    margin: float | None = None
    reference: str | None = None
    level: float = 0.95
    groups: dict[str, tuple[str, ...]] = {}
    pairs: tuple[tuple[Key | str, Key | str], ...] = ()
    family: int | None = None
    ranks: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    metrics: dict[str, str] = {}
    clusters: dict[str, str] = {}
    labels: dict[str, str] = {}
    title: str = ""
    primary: tuple[tuple[Key, Key], ...] = ()
    rows: tuple[Renamed, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a margin, a limit, a level or ranks that are none."""
        if self.margin is not None and not 0.0 < self.margin < 1.0:
            raise UsageError(f"The margin {self.margin:g} is no fraction such as 0.02.")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"The limit {self.limit} is no number of examples.")
        if self.ranks:
            check_ranks(self.ranks)
        check_level(self.level)

    def compares(self, a: Key, b: Key, names: tuple[str, str]) -> bool:
        """Whether the difference of two rows with these names is in the table."""
        if self.pairs:
            return (a, b) in self.pairs or (b, a) in self.pairs
        return self.reference in (ALL_PAIRS, *names)

    def apart(self, groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Its groups without an adapter of these ones, which take their place."""
        taken = {name for members in groups.values() for name in members}
        return {n: some for n, some in self.groups.items() if taken.isdisjoint(some)}

    def but(self, **changes: Any) -> Question:
        """The same question with other values of these fields.

        Raises:
            UsageError: A field that a question does not have, or a value that it does not take.
        """
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in changes.keys() - fields.keys():
            raise UsageError(f"A question has no {name!r}; it has {', '.join(fields)}.")
        try:
            return msgspec.convert(as_json(fields | changes), Question, strict=False)
        except msgspec.ValidationError as error:
            raise refused(error, changes) from error


def recipes_of(groups: Mapping[str, Sequence[str]], adapters: Collection[str]) -> dict[str, str]:
    """Adapter → the group that it is a training seed of.

    Raises:
        UsageError: A group has the name of an adapter that is none of its own, or names an adapter
            that is not there or in another group.
    """
    recipes: dict[str, str] = {}
    for group, members in groups.items():
        if group in adapters and group not in members:
            raise UsageError(f"The group {group} has the name of an adapter that is none of it.")
        for name in members:
            if name not in adapters:
                there = ", ".join(adapters)
                raise UsageError(f"The group {group} names {name}; there are {there}.")
            if recipes.setdefault(name, group) != group:
                raise UsageError(f"{name} is in the groups {recipes[name]} and {group}.")
    return recipes
