"""Cuts: an adapter truncated to a rank, and which cuts of an adapter are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aurac.adapters.adapter import Adapter
from aurac.adapters.family import Family
from aurac.adapters.nesting import named_ranks
from aurac.adapters.truncate import (
    Basis,
    Prepared,
    Rescale,
    check_cut,
    default_basis,
    default_rescale,
    prepare,
    relative_weights,
)

Truncation = tuple[str, str, str]
"""An adapter's SHA-256, basis and rescale."""


@dataclass(frozen=True)
class Cut:
    """An adapter truncated to a rank."""

    adapter: Adapter
    rank: int
    basis: Basis
    rescale: Rescale
    factor: float | None = None  # of rescale `fit`, which differs from task to task

    @property
    def truncation(self) -> Truncation:
        """What all ranks share."""
        return self.adapter.sha256, self.basis, self.rescale

    def prepared(self) -> Prepared:
        """The adapter ready to be truncated so."""
        return prepare(self.adapter, self.basis, self.rescale)


def cuts_of(
    adapter: Adapter | Family,
    ranks: str | Sequence[int] = "pow2",
    bases: Sequence[Basis] = (),
    rescales: Sequence[Rescale] = (),
) -> dict[tuple[Basis, Rescale], dict[int, Cut]]:
    """Basis and rescale → rank, ascending to the trained one → what is evaluated there.

    They are its method's best truncation, or those that were asked for; each member of a family is
    cut by its own default. Refused are ranks that it does not have (RankError), and cuts that it
    cannot have (UsageError).
    """
    wanted = parse_ranks(ranks, adapter)
    if isinstance(adapter, Family):  # each member as it was trained: nothing to choose
        cuts = {r: Cut(m := adapter.member(r), r, "prefix", default_rescale(m)) for r in wanted}
        return {("prefix", cuts[wanted[-1]].rescale): cuts}
    asked = [(b, r) for b in bases or (None,) for r in rescales or (None,)]
    ways = [(b or default_basis(adapter, r), r) for b, r in asked]
    pairs = [(b, r or default_rescale(adapter, b)) for b, r in ways]
    pairs = [(b, r) for b, r in pairs if b == "prefix" or r in ("keep", "fit")] or pairs
    for pair in pairs:
        check_cut(adapter, *pair)
    return {pair: {rank: _cut(adapter, rank, *pair) for rank in wanted} for pair in pairs}


def _cut(adapter: Adapter, rank: int, basis: Basis, rescale: Rescale) -> Cut:
    """A cut; at full rank the adapter itself, whatever the basis."""
    if rank == adapter.rank and rescale != "fit":
        known = (relative_weights(adapter, name) for name in adapter.modules)
        with_p = (basis == "svd" or rescale == "trained") and any(p is not None for p in known)
        return Cut(adapter, rank, "prefix", "trained" if with_p else "rule")
    return Cut(adapter, rank, basis, rescale)


def parse_ranks(spec: str | Sequence[int], adapter: Adapter | Family) -> tuple[int, ...]:
    """`pow2` (1, 2, 4, …), `all` (1..R) or explicit ranks, and always the trained rank R.

    Of a family `pow2` and `all` are the ranks that it has.
    """
    if not isinstance(spec, str):
        return tuple(sorted({*map(adapter.check_rank, spec), adapter.rank}))
    if isinstance(adapter, Family):
        return adapter.ranks
    return named_ranks(spec, adapter.rank)
