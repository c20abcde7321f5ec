"""Keys and values that outlive a pass: a shared prefix, and the sequences being decoded.

The header that all inputs of a task share, such as fixed few-shot examples, is computed once for a
state of the model and serves every block of documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aurac.engine.passes import SAVED_TOKENS, chain_subtree, make_pass
from aurac.engine.prefix_tree import shared_prefix
from aurac.engine.running import run_pass

if TYPE_CHECKING:
    from collections.abc import Sequence


KeyValuePair = tuple[Tensor, Tensor]


class SlotCache:
    """Keys and values of the sequences that are being decoded, per layer: (slots, Hkv, width, d).

    The width follows the longest sequence in flight in small steps, so that attention reads a
    contiguous block. Places beyond a sequence's length are masked: zero, or left by a sequence
    or a wrong draft before.
    """

    def __init__(self, slots: int, width: int) -> None:
        self.slots = slots
        self.width = width
        self.layers: list[KeyValuePair] = []

    def layer(self, number: int, key: Tensor, value: Tensor) -> KeyValuePair:
        """The stored tensors of a layer, made where these (T, Hkv, d) are its first."""
        while len(self.layers) <= number:
            shape = (self.slots, key.shape[1], self.width)
            self.layers.append(
                (key.new_zeros(*shape, key.shape[2]), value.new_zeros(*shape, value.shape[2]))
            )
        return self.layers[number]

    def write(self, layer: int, slot: Tensor, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Put (T, Hkv, d) keys and values at (slot, place), both (T,)."""
        for store, new in zip(self.layer(layer, key, value), (key, value), strict=True):
            store[slot, :, place] = new

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy whole slots."""
        for pair in self.layers:
            for store in pair:
                store[target] = store[source]

    def resize(self, slots: int, width: int) -> None:
        """Change the number of slots and their width; what fits is kept."""
        keep, wide = min(slots, self.slots), min(width, self.width)
        for i, pair in enumerate(self.layers):
            fresh = []
            for store in pair:
                new = store.new_zeros(slots, store.shape[1], width, store.shape[3])
                new[:keep, :, :wide] = store[:keep, :, :wide]
                fresh.append(new)
            self.layers[i] = (fresh[0], fresh[1])
        self.slots, self.width = slots, width


class PrefixCache:
    """Keys and values of one shared prefix, per layer: the only slot of a cache of its length."""

    def __init__(self, capacity: int) -> None:
        self._cache = SlotCache(1, capacity)

    def reserve(self, capacity: int) -> None:
        """Make room for a prefix of this length; what is there is kept."""
        if capacity > self._cache.width:
            self._cache.resize(1, capacity)

    def write(self, layer: int, start: int, key: Tensor, value: Tensor) -> None:
        """Put (T, Hkv, d) keys and values at ``start``."""
        for store, new in zip(self._cache.layer(layer, key, value), (key, value), strict=True):
            store[0, :, start : start + len(new)] = new.transpose(0, 1)

    def read(self, layer: int, length: int) -> KeyValuePair:
        """(Hkv, length, d) keys and values."""
        key, value = self._cache.layers[layer]
        return key[0, :, :length], value[0, :, :length]


_SHORTEST = 16  # tokens; a shorter header is computed with each input


@dataclass(eq=False)
class Header:
    """Tokens with which every input begins, and their keys and values for one state of a model."""

    tokens: tuple[int, ...] = ()  # the (h,) tokens; empty where the inputs share too little
    # Their keys and values, once `computed`
    cache: PrefixCache = field(default_factory=lambda: PrefixCache(0))
    computed: bool = False  # whether a pass has filled the cache

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def computed_tokens(self) -> int:
        """How many of its tokens a pass has computed."""
        return len(self) if self.computed else 0

    def compute(self, model: Any) -> None:
        """Fill the cache, the first time; call it within `packed_model`."""
        if self.computed or not self.tokens:
            return
        self.cache.reserve(len(self))
        run_pass(model, make_pass([chain_subtree(self.tokens, 0)], 0, keep=True), self.cache)
        self.computed = True


def header_tokens(inputs: Sequence[tuple[int, ...]], most: int) -> tuple[int, ...]:
    """The beginning that all inputs (at least one) share; empty if it is not worth a pass.

    It has at most ``most`` tokens: the token after it must be computed with each input.
    """
    length = min(shared_prefix(inputs), most)
    worth = length >= _SHORTEST and length * (len(inputs) - 1) >= SAVED_TOKENS
    return inputs[0][:length] if worth else ()
