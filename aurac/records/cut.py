"""How an adapter was cut from another one, as its side-car and `results.json` have it."""

from __future__ import annotations

import shlex

import msgspec

EXPORTED = ("rule", "keep", "trained")  # the rescales that `aurac truncate` takes


class TrainingRecord(msgspec.Struct, frozen=True):
    """A `Nesting` as files have it; ``None`` where it is not recorded."""

    method: str | None = None
    nested_ranks: list[int] | None = None
    weights: list[float] | None = None
    update: str | None = None


class Derived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an adapter was cut from another one; ``None`` for what is not recorded."""

    basis: str | None = None
    rescale: str | None = None
    rank: int | None = None
    from_rank: int | None = None
    from_sha256: str | None = None
    trained: TrainingRecord | None = None  # of the one that it was cut from
    fit_factor: float | None = None
    before: Derived | None = None  # the cut that this one was cut from; `from_…` are of the first

    @property
    def steps(self) -> str:
        """Every cut in its order, such as ``rank 4 (basis svd, rescale keep)``."""
        earlier = f"{self.before.steps}, then " if self.before else ""
        return f"{earlier}rank {self.rank} (basis {self.basis}, rescale {self.rescale})"

    def command(self, source: str, out: str) -> str:
        """The command line that cuts the adapter at `source` in this way."""
        how = {"rank": str(self.rank), "basis": self.basis, "rescale": self.rescale, "out": out}
        named = (word for name, value in how.items() if value for word in (f"--{name}", value))
        return shlex.join(["aurac", "truncate", source, *named])

    def sentence(self, rank: int | None, method: str, base: str) -> str:
        """What the adapter of this rank was made from, and whether it has P, for a card."""
        how = "cut to its first components" if self.basis == "prefix" else "cut by SVD"
        how = "made" if rank == self.from_rank else how
        source = "one of the same rank" if how == "made" else f"rank {self.from_rank}"
        of_p = not self.before and self.trained and self.trained.method == "matryoshka"
        p = " It is without P, as published." if of_p and self.rescale == "rule" else ""
        if self.rescale == "trained" or (of_p and self.basis != "prefix"):  # an SVD is of B · P · A
            p = " Its trained P is written into the weights."
        return (
            f"{method} adapter of rank {rank} for {base}, {how} without training from "
            f"{source} (SHA-256 {self.from_sha256 or 'not recorded'}): {self.steps}.{p}"
        )
