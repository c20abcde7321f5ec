"""Guesses at how a text goes on, so that one decoding pass may yield several of its tokens.

A pass over a few sequences costs the reading of all weights, whether it carries one token of each
or eight. What a text repeats (its few-shot examples, its own loops) can be guessed: the pass then
carries the guesses as well, and its own greedy choices tell up to where they were right. The text
is what it is without guesses, up to rounding. This is prompt lookup, which transformers' own
generation has as ``prompt_lookup_num_tokens`` for single sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 32  # most tokens in a pass with guesses: up to here reading the weights outweighs products
LONGEST = 7
_ENDINGS = (4, 3, 2)  # so many last tokens are looked for, the longer ones first
_REMEMBERED = 4096  # of a longer text only the end is looked up
_TRUST = 4  # guesses for each token in a row that would have been guessed right, from the second on


class PromptLookup:
    """Continues a text as it went on where its last tokens stood before.

    It guesses only while it would have been right: what it would have said of each token is
    compared with what came, which costs a look-up and no pass. Nine of ten guesses are right then.

    Args:
        tokens: The text so far.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        tokens = tokens[-_REMEMBERED:]
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._right = 0
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The text goes on with this token."""
        place = self._place()
        right = place is not None and self._tokens[place] == token
        self._right = self._right + 1 if right else 0
        for n in _ENDINGS:
            if len(self._tokens) >= n:
                self._after[tuple(self._tokens[-n:])] = len(self._tokens)
        self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """Up to ``most`` tokens; none where the last ones are new or the guesses were wrong.

        A guess that reaches the end of the text goes on in itself, as loops do.
        """
        place = self._place()
        if place is None:
            return []
        period = len(self._tokens) - place
        count = min(most, LONGEST, max(0, _TRUST * (self._right - 1)))
        return [self._tokens[place + i % period] for i in range(count)]

    def _place(self) -> int | None:
        """Where the text went on after the longest of its endings that it had before."""
        endings = (tuple(self._tokens[-n:]) for n in _ENDINGS if len(self._tokens) >= n)
        return next((self._after[e] for e in endings if e in self._after), None)


def shortened(drafts: Sequence[list[int]], room: int) -> list[list[int]]:
    """The drafts, all cut to the greatest length at which they take no more than ``room``."""
    cut = max(map(len, drafts))
    while sum(min(len(d), cut) for d in drafts) > room:
        cut -= 1
    return [d[:cut] for d in drafts]
