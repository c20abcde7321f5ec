"""The evaluation engine: requests answered by packed forward passes of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def secrets(arguments: Mapping[str, Any]) -> list[str]:
    """The texts in a model's arguments that no file may hold."""
    found = [str(value) for name, value in arguments.items() if holds_key(name)]
    user = re.match(r"\w+://([^/@]+)@", str(arguments.get("base_url", "")))
    return sorted(filter(None, [*found, user and user[1]]), key=len, reverse=True)


def holds_key(name: str) -> bool:
    """Whether an argument of a model may hold a key."""
    harmless = name.endswith(("token_id", "bos_token", "think_end_token")) or "tokenize" in name
    return not harmless and bool(re.search("token|key|header|password|secret", name))
