"""Who sees whom within a packed pass: attention groups on the device, and their masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.engine.passes import Group

_BLOCK = 128


@dataclass(frozen=True)
class Block:
    """Queries ``start:stop`` of a subtree see keys ``0:stop``; from ``clean`` on through a bias."""

    start: int
    stop: int
    clean: int


class GroupView:
    """A group on the device: gather indices and masks, made once for all layers."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.size, self.length = group.index.shape
        flat = group.index.reshape(-1)
        full = bool(group.valid.all())
        self.span = (int(flat[0]), int(flat[-1]) + 1) if full else None
        self.index = torch.from_numpy(flat).to(device)
        valid = np.flatnonzero(group.valid.reshape(-1))
        self.valid = None if full else torch.from_numpy(valid).to(device)
        self.target = None if full else self.index[self.valid]
        self._end = torch.from_numpy(group.end).to(device)
        self.blocks = tuple(_blocks(group.end))
        self._bias: dict[Any, torch.Tensor] = {}

    def visible(self, start: int, stop: int, clean: int) -> torch.Tensor:
        """(G, stop - start, stop - clean) bool: which keys ``clean:stop`` the queries see."""
        place = torch.arange(start, stop, device=self._end.device)
        key = torch.arange(clean, stop, device=self._end.device)
        seen = (key[None, :] <= place[:, None])[None]
        return seen & (place[None, :, None] < self._end[:, None, clean:stop])

    def bias(self, block: Block, like: torch.Tensor) -> torch.Tensor:
        """The mask of a block as an additive bias in the dtype of ``like``."""
        key = (block, like.dtype)
        if key not in self._bias:
            seen = self.visible(block.start, block.stop, block.clean)
            self._bias[key] = as_bias(seen, like.dtype)
        return self._bias[key]

    def windowed(
        self, block: Block, positions: torch.Tensor, prefix: int, window: int, like: torch.Tensor
    ) -> torch.Tensor:
        """(G, n, prefix + stop) bias with a sliding window, over prefix and subtree."""
        key = (block, prefix, window, like.dtype)
        if key not in self._bias:
            place = positions[self.index].view(self.size, self.length)
            held = torch.arange(prefix, device=place.device).expand(self.size, prefix)
            keys = torch.cat([held, place[:, : block.stop]], dim=1)
            seen = self.visible(block.start, block.stop, 0)
            seen = torch.cat([seen.new_ones(*seen.shape[:2], prefix), seen], dim=2)
            gap = place[:, block.start : block.stop, None] - keys[:, None, :]
            # Padding repeats a position; its own key is always within the window.
            self._bias[key] = as_bias(seen & (gap < window), like.dtype)
        return self._bias[key]


def as_bias(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where seen, -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def _blocks(end: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Block]:
    length = end.shape[1]
    shortest = end.min(axis=0)
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        closed = np.flatnonzero(shortest[:start] < stop)
        yield Block(start, stop, int(closed[0]) if len(closed) else start)
