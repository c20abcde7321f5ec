"""The header that all inputs of a task share, such as fixed few-shot examples.

Its keys and values are computed once for a state of the model and serve every block of documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from aurac.engine.attention import forward, pass_metadata
from aurac.engine.kv_cache import PrefixCache
from aurac.engine.passes import SAVED_TOKENS, chain_subtree, make_pass
from aurac.engine.prefix_tree import shared_prefix
from aurac.engine.running import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORTEST = 16  # tokens; a shorter header is computed with each input


@dataclass(eq=False)
class Header:
    """Tokens with which every input begins, and their keys and values for one state of a model.

    Attributes:
        tokens: The (h,) tokens; empty where the inputs share too little.
        cache: Their keys and values, once `computed`.
        computed: Whether a pass has filled the cache.
    """

    tokens: tuple[int, ...] = ()
    cache: PrefixCache = field(default_factory=lambda: PrefixCache(0))
    computed: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def compute(self, model: Any) -> None:
        """Fill the cache, the first time; call it within `packed_model`."""
        if self.computed or not self.tokens:
            return
        self.cache.reserve(len(self))
        device = device_of(model)
        step = make_pass([chain_subtree(self.tokens, 0)], 0, keep=True)
        tokens = torch.from_numpy(step.tokens).to(device)
        metadata = pass_metadata(step, self.cache, device)
        forward(model, tokens, metadata, torch.zeros_like(tokens[:1]))
        self.computed = True


def header_tokens(inputs: Sequence[tuple[int, ...]], most: int) -> tuple[int, ...]:
    """The beginning that all inputs share; empty if it is not worth a pass of its own.

    Args:
        inputs: Token sequences, at least one.
        most: Longest header: the token after it must be computed with each input.
    """
    length = min(shared_prefix(inputs), most)
    worth = length >= _SHORTEST and length * (len(inputs) - 1) >= SAVED_TOKENS
    return inputs[0][:length] if worth else ()
