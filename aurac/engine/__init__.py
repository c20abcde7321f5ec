"""The evaluation engine: requests answered by packed forward passes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.adapters import Adapter
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
