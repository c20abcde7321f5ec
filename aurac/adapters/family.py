"""Families: one adapter for each rank, trained on its own; together they make a curve.

A family answers what plans and results ask of an adapter. Its truncation to rank r is its member of
rank r, as it is. Static ranks searched one by one are the baseline that nested training replaces
(MatryoshkaLoRA, arXiv 2605.07850); any method with one plain adapter for each rank is a family too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aurac.adapters.adapter import Adapter
from aurac.curves.checks import only
from aurac.errors import CheckpointError, RankError
from aurac.files import sha256_text


@dataclass(frozen=True, eq=False)
class Family:
    """One adapter for each rank; what members agree on is ``None`` where they differ."""

    name: str  #: in tables and reports
    members: Mapping[int, Adapter]  #: by rank, ascending
    method: str | None
    seed: int | None
    data_order: str | None  #: hash of the training examples and their order
    base: str | None  #: the same for all members that record one
    source: Path | None = None  #: the folder that holds them, if one does
    notes: tuple[str, ...] = ()  #: what limits or explains its results, one sentence each
    format: str = "family"

    def __repr__(self) -> str:
        return f"Family({self.name!r}: ranks {', '.join(map(str, self.ranks))})"

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(self.members)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its members, ascending."""
        return tuple(self.members)

    @cached_property
    def sha256(self) -> str:
        """A hash of its ranks and its members' hashes."""
        return sha256_text(json.dumps([[r, m.sha256] for r, m in self.members.items()]))

    @property
    def recipe(self) -> Mapping[str, object] | None:
        """The recipe of the largest member, with the ranks; ``None`` unless all record one."""
        recipes = [member.recipe for member in self.members.values()]
        last = recipes[-1]
        if last is None or None in recipes:
            return None
        return {**last, "name": f"{last.get('name')} per rank", "family": list(self.ranks)}

    def check_rank(self, r: int) -> int:
        """``r`` itself; RankError where no member has it."""
        if r not in self.members:
            ranks = ", ".join(map(str, self.ranks))
            raise RankError(f"family {self.name!r} has the ranks {ranks}, and not {r!r}")
        return int(r)

    def member(self, r: int) -> Adapter:
        """The adapter of rank ``r``; RankError where there is none."""
        return self.members[self.check_rank(r)]


def make_family(name: str, adapters: Sequence[Adapter], source: Path | None = None) -> Family:
    """The family of ``adapters``, each at its own rank, and all of one base (CheckpointError)."""
    members = {adapter.rank: adapter for adapter in sorted(adapters, key=lambda a: a.rank)}
    if len(members) < len(adapters):
        ranks = ", ".join(f"{adapter.name} {adapter.rank}" for adapter in adapters)
        raise CheckpointError(
            f"{name} holds several adapters of one rank ({ranks}): give each of them to compare "
            "them"
        )
    if len({m.base_sha256 or m.base for m in members.values()} - {None}) > 1:
        raise CheckpointError(f"the members of family {name!r} were trained on different bases")
    trained = sum(member.parameters(member.rank) for member in members.values())
    noted = dict.fromkeys(note for member in members.values() for note in member.notes)
    own = f"{len(members)} trainings, one for each rank, of {trained:,} parameters together"
    names = ("method", "seed", "data_order")
    shared: dict[str, Any] = {n: only(getattr(m, n) for m in members.values()) for n in names}
    return Family(
        name,
        members,
        **shared,
        base=next((member.base for member in members.values() if member.base), None),
        source=source,
        notes=(own, *noted),
    )


def members_of(adapter: Adapter | Family) -> tuple[Adapter, ...]:
    """The adapters of a family, or the adapter itself."""
    return tuple(adapter.members.values()) if isinstance(adapter, Family) else (adapter,)
