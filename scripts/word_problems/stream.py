"""Random choices that are the same on every platform and in every Python version.

The standard generators promise reproducible `random()` values but not reproducible `choice`,
`shuffle` or `randint`; a pinned dataset may not hang on that. A `Stream` is SHA-256 in counter
mode, and each choice is spelled out here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Stream:
    """An endless stream of 64-bit words, SHA-256(key, counter), and the choices made from it.

    Args:
        key: Names the stream; equal keys give equal streams.
    """

    __slots__ = ("_block", "_counter", "_key")

    def __init__(self, key: str) -> None:
        self._key = key
        self._counter = 0
        self._block: list[int] = []

    def word(self) -> int:
        """The next 64-bit word."""
        if not self._block:
            digest = hashlib.sha256(f"{self._key}/{self._counter}".encode()).digest()
            self._counter += 1
            self._block = [int.from_bytes(digest[i : i + 8], "big") for i in (24, 16, 8, 0)]
        return self._block.pop()

    def below(self, n: int) -> int:
        """An integer in [0, n); the bias of the remainder is below n / 2**64."""
        return self.word() % n

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, each as likely as the others."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` different positions of `items`, in random order (a partial Fisher-Yates shuffle)."""
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.sample(items, len(items))
