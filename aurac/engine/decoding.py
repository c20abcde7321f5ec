"""The fast path of generation: greedy decoding and sampling, with sequences that come and go.

Prompts are prefilled packed (no padding): a header that all of them share once, what neighbours in
the prefix tree share once for a run of them, and samples of one prompt together. Each sequence in
flight is one token of a decoding pass. One that has ended leaves, the last ones move into the
holes, and waiting prompts take the freed slots.

A pass over a few sequences costs the reading of all weights, whether it carries one token of each
or eight. What a greedy text repeats is drafted (prompt lookup, ``prompt_lookup_num_tokens`` in
transformers): the pass carries the draft tokens as well, and its own choices tell up to where they
are right. The text is what it is without them, up to rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aurac.engine import EngineOptions
from aurac.engine.attention import SlotCache, decoding_metadata, pass_metadata
from aurac.engine.passes import (
    BRANCH_TOKENS,
    PrefixTree,
    Subtree,
    batch_subtrees,
    joined_rows,
    make_pass,
    make_subtree,
    subtree_paths,
)
from aurac.engine.reference import eos_token_ids
from aurac.engine.running import Header, cached_tokens, forward, packed_model, pass_tokens
from aurac.engine.sampling import Chooser, Draws
from aurac.engine.tokens import Prompt, StopTable
from aurac.models.device import device_of

# Most tokens in a pass with draft tokens: up to here reading the weights outweighs the products.
ROWS = 32
LONGEST = 7
_ENDINGS = (4, 3, 2)  # so many last tokens are looked for, the longer ones first
_REMEMBERED = 4096  # of a longer text only the end is looked up
_TRUST = 4  # draft tokens for each token in a row that was right, from the second on


class PromptLookup:
    """Continues a text as it went on where its last tokens stood before.

    It drafts only while it would have been right lately; nine of ten drafts are right then.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._right = 0
        for token in tokens[-_REMEMBERED:]:
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

    def draft(self, most: int) -> list[int]:
        """Up to ``most`` tokens; none where the last ones are new or the drafts were wrong.

        A draft that reaches the end of the text goes on in itself, as loops do.
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


def shortened(drafts: Sequence[list[int]], most: int) -> list[list[int]]:
    """The drafts, all cut to the greatest length at which they have at most so many tokens."""
    cut = max(map(len, drafts))
    while sum(min(len(d), cut) for d in drafts) > most:
        cut -= 1
    return [d[:cut] for d in drafts]


_GROWTH = 32  # slots widen by this many tokens at a time
MOST_SLOTS = 256
_REFILL = 0.75  # prefill new prompts when fewer than this fraction of the slots is busy


@dataclass
class Stream:
    """One prompt on its way."""

    number: int
    prompt: Prompt
    stops: StopTable
    new: list[int] = field(default_factory=list)
    lookup: PromptLookup | None = None
    draws: Draws | None = None

    @property
    def length(self) -> int:
        """Tokens whose keys and values are needed to go on: all but the newest."""
        return len(self.prompt.tokens) + len(self.new) - 1

    def add(self, token: int, ends: frozenset[int]) -> bool:
        """Append a token; whether it was the last."""
        self.new.append(token)
        if self.lookup is not None:
            self.lookup.add(token)
        if token in ends or len(self.new) == self.prompt.max_new_tokens:
            return True
        return self.stops.may_stop(token) and self.stops.stopped(self.new)

    def draft(self, most: int) -> list[int]:
        """Up to ``most`` tokens with which the text might go on, and after which one more fits."""
        if self.draws is not None:
            return []
        if self.lookup is None:
            self.lookup = PromptLookup([*self.prompt.tokens, *self.new])
        return self.lookup.draft(min(most, self.prompt.max_new_tokens - len(self.new) - 1))


class Decoder:
    """Runs distinct prompts through one model state, in evaluation mode without gradients.

    All prompts begin with the header, and more follows in each; ``finished`` is called with the
    number of one that has ended.

    Attributes:
        near_ties: Numbers of the prompts for which, while counts are recorded, a token was chosen
            by less than the rounding of the model's dtype.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        header: Header,
        options: EngineOptions,
        finished: Callable[[int], None],
    ) -> None:
        self._model = model
        self._device = device_of(model)
        self._ends = eos_token_ids(model)
        self._batch_tokens = options.batch_tokens or pass_tokens(model)
        self._budget = options.cache_tokens or cached_tokens(model)
        self._finished = finished
        self.near_ties: set[int] = set()
        self._shared, self._header, self._store = header, len(header), header.cache
        tables = {until: StopTable(tokenizer, until) for until in {p.until for p in prompts}}
        self._waiting = deque(
            Stream(
                number=i,
                prompt=p,
                stops=tables[p.until],
                draws=Draws(p.sampling, self._device) if p.sampling else None,
            )
            for i, p in sorted(enumerate(prompts), key=lambda pair: pair[1].order)
        )
        self._most = min(options.batch_size or MOST_SLOTS, len(prompts))
        self._active: list[Stream] = []
        self._slots = SlotCache(0, 0)
        self._choose = Chooser(model)
        self._results: list[list[int]] = [[] for _ in prompts]

    def run(self) -> list[list[int]]:
        """New tokens of every prompt, up to and including the one that ended it."""
        with packed_model(self._model):
            self._shared.compute(self._model)
            while self._waiting or self._active:
                if self._waiting and len(self._active) <= _REFILL * self._slots_allowed():
                    self._admit()
                if self._active:
                    self._advance()
        return self._results

    def _own(self, sequence: Stream) -> int:
        """Places that a sequence needs for its next pass."""
        return sequence.length + 1 - self._header

    def _slots_allowed(self) -> int:
        """How many slots the budget allows at the width that the longest needs."""
        widest = max(self._own(s) for s in (*self._active, *list(self._waiting)[:1]))
        return max(1, min(self._most, self._budget // (widest + _GROWTH)))

    def _admit(self) -> None:
        """Prefill waiting prompts into free slots, and take their first tokens."""
        count = self._admitted()
        if not count:
            return
        fresh = [self._waiting.popleft() for _ in range(count)]
        self._fit(len(self._active) + count, max(map(self._own, (*self._active, *fresh))))
        base = len(self._active)
        self._active += fresh
        tree, row_of = PrefixTree.build([(*s.prompt.tokens, *s.new) for s in fresh])
        slots_of: dict[int, list[int]] = {}
        for i, row in enumerate(row_of.tolist()):
            slots_of.setdefault(row, []).append(base + i)
        runs = joined_rows(tree, self._header, min(BRANCH_TOKENS, self._batch_tokens))
        subtrees = [make_subtree(tree, low, high, self._header) for low, high in runs]
        ended = []
        for batch in batch_subtrees(subtrees, self._batch_tokens):
            ended += self._prefill(batch, tree, slots_of)
        self._release(ended)

    def _admitted(self) -> int:
        """How many waiting prompts go next: samples of one prompt together, if slots can do it."""
        slots, waiting = self._slots_allowed(), self._waiting
        count = whole = min(max(slots - len(self._active), 1), len(waiting))
        while 0 < whole < len(waiting) and self._siblings(whole - 1, whole):
            whole -= 1
        if whole or not self._active:
            return whole or count
        fits = slots >= len(waiting) or not self._siblings(0, slots)
        return 0 if fits else count

    def _siblings(self, a: int, b: int) -> bool:
        return self._waiting[a].prompt.tokens == self._waiting[b].prompt.tokens

    def _prefill(
        self, subtrees: Sequence[Subtree], tree: PrefixTree, slots_of: Mapping[int, Sequence[int]]
    ) -> list[int]:
        """One pass over subtrees of prompts, copied into their slots; the slots that have ended."""
        paths: list[Any] = []
        slots: list[int] = []
        at = 0
        for subtree in subtrees:
            low, high = subtree.rows
            for row, path in enumerate(subtree_paths(tree, low, high, self._header), start=low):
                paths += [path + at] * len(slots_of[row])
                slots += slots_of[row]
            at += len(subtree)
        step = make_pass(subtrees, self._header)
        metadata = pass_metadata(step, self._store, self._device)
        metadata.slots = self._slots
        metadata.source = torch.from_numpy(np.concatenate(paths)).to(self._device)
        metadata.slot = torch.from_numpy(np.repeat(slots, [len(p) for p in paths])).to(self._device)
        metadata.place = metadata.positions[metadata.source] - self._header
        last = [int(path[-1]) for path in paths]
        draws = [self._active[slot].draws for slot in slots]
        best = self._choose(forward(self._model, step.tokens, metadata, last), draws)
        return [s for s, token in zip(slots, best, strict=True) if self._take(s, token)]

    def _advance(self) -> None:
        """One token for every sequence in flight, and more where drafts of them are right."""
        while (count := len(self._active)) > 1 and count * self._widest() > self._budget:
            self._waiting.appendleft(self._active.pop())
        drafts = self._drafts()
        widest = max(self._own(s) + len(d) for s, d in zip(self._active, drafts, strict=True))
        self._fit(len(drafts), widest)
        metadata = decoding_metadata(
            [s.length for s in self._active],
            [1 + len(d) for d in drafts],
            self._header,
            self._store,
            self._slots,
            self._device,
        )
        fed = [t for s, d in zip(self._active, drafts, strict=True) for t in (s.new[-1], *d)]
        draws = [s.draws for s, d in zip(self._active, drafts, strict=True) for _ in (None, *d)]
        logits = forward(self._model, fed, metadata, range(len(fed)))
        best = iter(self._choose(logits, draws))
        ended = []
        for slot, draft in enumerate(drafts):
            if self._take_right(slot, draft, [next(best) for _ in range(1 + len(draft))]):
                ended.append(slot)
        self._release(ended)

    def _drafts(self) -> list[list[int]]:
        """Draft tokens for each sequence in flight, where there is room for them."""
        count = len(self._active)
        if count >= ROWS or count * (self._widest() + LONGEST) > self._budget:
            return [[] for _ in self._active]
        return shortened([s.draft(LONGEST) for s in self._active], ROWS - count)

    def _take_right(
        self, slot: int, draft: Sequence[int], choices: Sequence[tuple[int, bool]]
    ) -> bool:
        """Take what was chosen up to the first wrong draft token; whether the text has ended."""
        for expected, best in zip([*draft, None], choices, strict=True):
            if self._take(slot, best):
                return True
            if best[0] != expected:
                break
        return False

    def _widest(self) -> int:
        return max(map(self._own, self._active))

    def _fit(self, count: int, width: int) -> None:
        """Make the slots wide and many enough, within the budget."""
        if count <= self._slots.slots and width <= self._slots.width:
            return
        wide = max(width, min(width + _GROWTH, self._budget // count))
        if width <= self._slots.width and count * self._slots.width <= self._budget:
            wide = self._slots.width
        self._slots.resize(count, wide)

    def _take(self, index: int, best: tuple[int, bool]) -> bool:
        """Take a token that was chosen; whether it was the last."""
        token, tie = best
        if tie:
            self.near_ties.add(self._active[index].number)
        return self._active[index].add(token, self._ends)

    def _release(self, ended: Sequence[int]) -> None:
        """Let sequences leave; the last ones in flight move into their slots."""
        if not ended:
            return
        for i in ended:
            sequence = self._active[i]
            self._results[sequence.number] = sequence.new
            self._finished(sequence.number)
        gone = set(ended)
        left = len(self._active) - len(gone)
        holes = [i for i in sorted(gone) if i < left]
        movers = [i for i in range(left, len(self._active)) if i not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            self._active[hole] = self._active[mover]
        del self._active[left:]
        if movers:
            self._slots.move(
                torch.tensor(movers, device=self._device), torch.tensor(holes, device=self._device)
            )
