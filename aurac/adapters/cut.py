"""Cuts: which truncations of an adapter are evaluated, and one of them at one rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aurac.adapters.adapter import Adapter
from aurac.adapters.family import Family
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import (
    Basis,
    Prepared,
    Rescale,
    check_cut,
    default_basis,
    default_rescale,
    has_p_in_weights,
    prepare,
)

Truncation = tuple[str, str, str]
"""An adapter's SHA-256, basis and rescale."""


@dataclass(frozen=True, eq=False)
class Cut:
    """An adapter truncated to a rank."""

    adapter: Adapter
    rank: int
    basis: Basis
    rescale: Rescale
    factor: float | None = None  # of rescale `fit`

    @property
    def truncation(self) -> Truncation:
        """What all ranks share."""
        return self.adapter.sha256, self.basis, self.rescale

    def prepared(self) -> Prepared:
        """The adapter ready to be truncated so."""
        factors = {self.rank: self.factor} if self.factor is not None else None
        return prepare(self.adapter, self.basis, self.rescale, factors)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One way of truncating one adapter over ranks: a curve on each task comes out of it."""

    name: str  #: the adapter's, unique in the run
    adapter: Adapter | Family
    basis: Basis  #: each member of a family is cut by its own default
    rescale: Rescale
    ranks: tuple[int, ...]  #: to evaluate, ascending; the last is the trained rank

    def at(self, rank: int, factor: float | None = None) -> Cut:
        """What is evaluated at a rank: at full rank the adapter itself, whatever the basis.

        A rescale `fit` needs its factor, which differs from task to task.
        """
        member = self.adapter.member(rank)
        basis, rescale = self.basis, self.rescale
        if isinstance(self.adapter, Family):
            return Cut(member, rank, "prefix", default_rescale(member))
        if rank == member.rank and rescale != "fit" and not has_p_in_weights(member):
            with_p = basis == "svd" or rescale == "trained"
            trained = with_p and default_rescale(member) == "trained"
            basis, rescale = "prefix", "trained" if trained else "rule"
        return Cut(member, rank, basis, rescale, factor)


def sweeps_of(
    name: str,
    adapter: Adapter | Family,
    ranks: str | Sequence[int] = "pow2",
    bases: Sequence[Basis] = (),
    rescales: Sequence[str] = (),
) -> list[Sweep]:
    """The curves of one adapter: its method's best truncation, or those that were asked for.

    Refused are ranks that it does not have (RankError), and cuts that it cannot have (UsageError).
    """
    wanted = parse_ranks(ranks, adapter)
    if isinstance(adapter, Family):  # each member as it was trained: nothing to choose
        return [Sweep(name, adapter, "prefix", default_rescale(adapter.member(wanted[-1])), wanted)]
    first: Rescale | None = rescales[0] if rescales else None  # type: ignore[assignment]
    own = default_basis(adapter, first)
    pairs = [
        (b, r) for b in (bases or (own,)) for r in (rescales or (default_rescale(adapter, b),))
    ]
    pairs = [(b, r) for b, r in pairs if b == "prefix" or r in ("keep", "fit")] or pairs
    for basis, rescale in pairs:
        check_cut(adapter, basis, rescale)  # type: ignore[arg-type]
    return [Sweep(name, adapter, b, r, wanted) for b, r in dict.fromkeys(pairs)]  # type: ignore[arg-type]


def parse_ranks(spec: str | Sequence[int], adapter: Adapter | Family) -> tuple[int, ...]:
    """`pow2` (1, 2, 4, …), `all` (1..R) or explicit ranks, and always the trained rank R.

    Of a family `pow2` and `all` are the ranks that it has.
    """
    if isinstance(adapter, Family) and spec in ("pow2", "all"):
        return adapter.ranks
    if spec == "pow2":
        return default_nested_ranks(adapter.rank)
    if spec == "all":
        return tuple(range(1, adapter.rank + 1))
    parts = spec.split(",") if isinstance(spec, str) else spec
    ranks = {adapter.check_rank(int(part)) for part in parts}
    return tuple(sorted({*ranks, adapter.rank}))
