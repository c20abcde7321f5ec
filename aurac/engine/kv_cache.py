"""Keys and values that outlive a pass: one shared prefix, and the sequences being decoded."""

from __future__ import annotations

import torch

KeyValuePair = tuple[torch.Tensor, torch.Tensor]


class PrefixCache:
    """Keys and values of one shared prefix, per layer.

    Args:
        capacity: Longest prefix in tokens.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._layers: list[KeyValuePair] = []

    def reserve(self, capacity: int) -> None:
        """Make room for a prefix of this length; what is there is kept."""
        if capacity <= self._capacity:
            return
        self._layers = [
            (_longer(key, capacity), _longer(value, capacity)) for key, value in self._layers
        ]
        self._capacity = capacity

    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put (T, Hkv, d) keys and values at ``start``."""
        while len(self._layers) <= layer:
            self._layers.append(
                (
                    key.new_zeros(key.shape[1], self._capacity, key.shape[2]),
                    value.new_zeros(value.shape[1], self._capacity, value.shape[2]),
                )
            )
        for store, new in zip(self._layers[layer], (key, value), strict=True):
            store[:, start : start + len(new)] = new.transpose(0, 1)

    def read(self, layer: int, length: int) -> KeyValuePair:
        """(Hkv, length, d) keys and values."""
        key, value = self._layers[layer]
        return key[:, :length], value[:, :length]


def _longer(tensor: torch.Tensor, capacity: int) -> torch.Tensor:
    """(H, L, d) with room for `capacity` tokens."""
    longer = tensor.new_zeros(tensor.shape[0], capacity, tensor.shape[2])
    longer[:, : tensor.shape[1]] = tensor
    return longer


class SlotCache:
    """Keys and values of the sequences that are being decoded, per layer: (slots, Hkv, width, d).

    The width follows the longest sequence in flight in small steps, so that attention reads a
    contiguous block. Places beyond a sequence's length are masked: zero, or left by a sequence
    or a wrong guess before.
    """

    def __init__(self, slots: int, width: int) -> None:
        self.slots = slots
        self.width = width
        self.layers: list[KeyValuePair] = []

    def write(
        self,
        layer: int,
        slot: torch.Tensor,
        place: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> None:
        """Put (T, Hkv, d) keys and values at (slot, place), both (T,)."""
        if len(self.layers) <= layer:
            self.layers.append(
                (
                    key.new_zeros(self.slots, key.shape[1], self.width, key.shape[2]),
                    value.new_zeros(self.slots, value.shape[1], self.width, value.shape[2]),
                )
            )
        for store, new in zip(self.layers[layer], (key, value), strict=True):
            store[slot, :, place] = new

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
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
