"""The evaluation engine: requests answered by packed forward passes of a model."""

from __future__ import annotations

from dataclasses import dataclass

from aurac.errors import UsageError


@dataclass(frozen=True)
class EngineOptions:
    """What a user may set; neither changes an answer beyond rounding.

    Attributes:
        batch_size: Most sequences decoded at once; None for 256, or as many as memory takes. In
            what lm-eval's own ``HFLM`` answers, its batch size.
        max_length: Longest input in tokens; None asks the model's configuration.
    """

    batch_size: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, not a whole number from 1")


def parse_batch_size(given: object) -> int | None:
    """`8` → 8, `auto` or `auto:4` → None; else a UsageError."""
    if given is None or str(given).partition(":")[0] == "auto":
        return None
    if not str(given).isdecimal() or int(str(given)) < 1:
        raise UsageError(f"--batch-size {given!r} is neither a whole number from 1 nor auto")
    return int(str(given))
