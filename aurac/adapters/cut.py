"""A cut: an adapter truncated to one rank, as it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from aurac.adapters.adapter import Adapter
from aurac.adapters.truncate import Basis, Rescale

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
