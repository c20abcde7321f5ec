"""The evaluation engine: requests answered by forward passes of a model, within these budgets."""

from __future__ import annotations

from dataclasses import dataclass

from aurac.errors import UsageError


class UnsupportedRequestError(UsageError):
    """A request that the engine does not serve; the caller falls back to the reference path."""


@dataclass(frozen=True)
class EngineOptions:
    """Budgets of the engine; none of them changes an answer beyond rounding.

    Attributes:
        batch_tokens: Most tokens in one forward pass; a longer single prompt is still one pass, and
            decoding follows ``batch_size``. ``None`` chooses by device.
        max_length: Longest input in tokens; ``None`` asks the model's configuration.
        batch_size: Most sequences in one forward pass (decoding: sequences in flight, each with its
            draft tokens); ``None`` leaves it to the token budgets.
        cache_tokens: Most tokens whose keys and values are held while decoding; ``None`` takes the
            larger of 32,768 and what 2 GiB hold.
        packed: ``False`` keeps to plain padded rows and the model's own generation.
    """

    batch_tokens: int | None = None
    max_length: int | None = None
    batch_size: int | None = None
    cache_tokens: int | None = None
    packed: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_length", "batch_size", "cache_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}", expected="a whole number of at least 1")


def parse_batch_size(given: object) -> int | None:
    """`8` → 8, `auto` or `auto:4` → None; else a UsageError."""
    if given is None or str(given).partition(":")[0] == "auto":
        return None
    if not str(given).isdecimal() or int(str(given)) < 1:
        raise UsageError(f"--batch-size {given!r}", expected="a whole number from 1, or auto")
    return int(str(given))
