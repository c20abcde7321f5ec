"""Attention over packed subtrees, over a cached prefix, and over decoding slots; their caches.

``AttentionMetadata`` says what the tokens of one pass see. The products are plain batched matrix
products over blocks of queries, which on a CPU in bf16 are about three times as fast as the
built-in kernel. Keys of grouped-query models are never repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aurac.engine.passes import ForwardPass, Group
from aurac.models.device import unwrapped

_BLOCK = 128
_STEP = 32  # widths of decoding slots that are read
KeyValuePair = tuple[Tensor, Tensor]


class SlotCache:
    """Keys and values of sequences, per layer: (slots, Hkv, width, d).

    The width follows the longest sequence in flight in small steps, so that attention reads a
    contiguous block. Places beyond a sequence's length are masked: zero, or left by a sequence or a
    wrong draft before.
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
        self._bias: dict[Any, Tensor] = {}

    def visible(self, start: int, stop: int, clean: int) -> Tensor:
        """(G, stop - start, stop - clean) bool: which keys ``clean:stop`` the queries see."""
        place = torch.arange(start, stop, device=self._end.device)
        key = torch.arange(clean, stop, device=self._end.device)
        seen = (key[None, :] <= place[:, None])[None]
        return seen & (place[None, :, None] < self._end[:, None, clean:stop])

    def bias(self, block: Block, like: Tensor) -> Tensor:
        """The mask of a block as an additive bias in the dtype of ``like``."""
        key = (block, like.dtype)
        if key not in self._bias:
            seen = self.visible(block.start, block.stop, block.clean)
            self._bias[key] = as_bias(seen, like.dtype)
        return self._bias[key]

    def windowed(
        self, block: Block, positions: Tensor, prefix: int, window: int, like: Tensor
    ) -> Tensor:
        """(G, n, prefix + stop) bias with a sliding window, over prefix and subtree."""
        key = (block, prefix, window, like.dtype)
        if key not in self._bias:
            place = positions[self.index].view(self.size, self.length)
            cached = torch.arange(prefix, device=place.device).expand(self.size, prefix)
            keys = torch.cat([cached, place[:, : block.stop]], dim=1)
            seen = self.visible(block.start, block.stop, 0)
            seen = torch.cat([seen.new_ones(*seen.shape[:2], prefix), seen], dim=2)
            gap = place[:, block.start : block.stop, None] - keys[:, None, :]
            # Padding repeats a position; its own key is always within the window.
            self._bias[key] = as_bias(seen & (gap < window), like.dtype)
        return self._bias[key]


def as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def _blocks(end: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Block]:
    length = end.shape[1]
    shortest = end.min(axis=0)
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        closed = np.flatnonzero(shortest[:start] < stop)
        yield Block(start, stop, int(closed[0]) if len(closed) else start)


class ScoreRule(NamedTuple):
    """What a layer does to its scores: a factor, a sliding window, a bound."""

    scaling: float
    window: int | None = None
    softcap: float | None = None

    def capped(self, scores: Tensor) -> Tensor:
        """Scores within the bound."""
        if self.softcap is None:
            return scores
        return torch.tanh(scores / self.softcap) * self.softcap


@dataclass
class AttentionMetadata:
    """What the tokens of one forward pass see, and where their keys and values go."""

    positions: Tensor  # (T,) positions of the tokens
    longest: int  # largest position plus one, for sliding windows
    prefix: int = 0  # held tokens that every token sees
    store: SlotCache | None = None  # where they are cached, in its one slot
    keep: bool = False  # whether this pass extends them
    groups: Sequence[GroupView] = ()  # subtrees of a packed pass; empty when decoding
    slots: SlotCache | None = None  # decoding slots
    slot: Tensor | None = None  # (W,) slot of each token that is written, or ``None``
    place: Tensor | None = None  # (W,) its place in the slot
    # (W,) which of this pass's tokens is written; ``None`` writes all T in order
    source: Tensor | None = None
    each: int = 0  # of sequences that read their slots, so many tokens of each; 0: a packed pass
    layer: int = 0
    windows: set[int] = field(default_factory=set)
    _bias: dict[Any, Tensor] = field(default_factory=dict)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rule: ScoreRule) -> Tensor:
        """(T, H, d) queries over (T, Hkv, d) new keys and whatever else this metadata sees."""
        layer, self.layer = self.layer, self.layer + 1
        cached = None
        if self.prefix and self.store is not None:
            held = self.store.layers[layer]
            cached = held[0][0, :, : self.prefix], held[1][0, :, : self.prefix]
        if self.keep and self.store is not None:
            for store, new in zip(self.store.layer(layer, key, value), (key, value), strict=True):
                store[0, :, self.prefix : self.prefix + len(new)] = new.transpose(0, 1)
        if self.slots is not None and self.slot is not None and self.place is not None:
            whose = slice(None) if self.source is None else self.source
            self.slots.write(layer, self.slot, self.place, key[whose], value[whose])
        if rule.window is not None and self.longest <= rule.window:
            rule = rule._replace(window=None)
        if self.each and self.slots is not None:
            return self._decode(query, self.slots.layers[layer], cached, rule)
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        for group in self.groups:
            self._packed(group, query, key, value, cached, rule, out)
        return out

    def _packed(
        self,
        group: GroupView,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cached: KeyValuePair | None,
        rule: ScoreRule,
        out: Tensor,
    ) -> None:
        size, length, prefix = group.size, group.length, self.prefix
        heads, kv = query.shape[1], key.shape[1]
        rep = heads // kv

        def gather(x: Tensor) -> Tensor:
            part = x[slice(*group.span)] if group.span else x[group.index]
            return part.reshape(size, length, kv, -1, x.shape[-1]).permute(2, 0, 1, 3, 4)

        q = gather(query).reshape(kv, size, length * rep, -1)
        k = gather(key).reshape(kv * size, length, -1)
        v = gather(value).reshape(kv * size, length, -1)
        result = q.new_empty(kv, size, length * rep, v.shape[-1])
        for block in group.blocks:
            rows = slice(block.start * rep, block.stop * rep)
            part = rule.capped(_scores(q[:, :, rows], k[:, : block.stop], cached, rule.scaling))
            biased = part.view(kv, size, -1, rep, part.shape[-1])
            if rule.window is None:
                bias = group.bias(block, part)
                biased[..., prefix + block.clean :] += bias[None, :, :, None]
            else:
                bias = group.windowed(block, self.positions, prefix, rule.window, part)
                biased += bias[None, :, :, None]
            torch.softmax(part, dim=-1, out=part)
            result[:, :, rows] = _values(part, v[:, : block.stop], cached, size)
        result = result.view(kv, size, length, rep, -1).permute(1, 2, 0, 3, 4)
        flat = result.reshape(size * length, heads, -1)
        if group.span:
            out[slice(*group.span)] = flat
        else:
            out[group.target] = flat[group.valid]

    def _decode(
        self, query: Tensor, slot_kv: KeyValuePair, cached: KeyValuePair | None, rule: ScoreRule
    ) -> Tensor:
        """(B * each, H, d) queries of sequences over their slots and the prefix."""
        heads, dim = query.shape[1:]
        count, each = len(query) // self.each, self.each
        # Slots are as wide as the longest sequence that was ever in one; read what is needed now.
        # In steps, so that the kernels for one shape serve several passes.
        width = min(_STEP * math.ceil((self.longest - self.prefix) / _STEP), slot_kv[0].shape[2])
        key, value = slot_kv[0][:count, :, :width], slot_kv[1][:count, :, :width]
        kv, prefix = key.shape[1], self.prefix
        rep = heads // kv
        q = query.contiguous().view(count, each, kv, rep, dim).transpose(1, 2).contiguous()
        part = q.new_empty(count, kv, each * rep, prefix + width)
        # Keys times query, not the other way round: on a CPU half the time for a few queries.
        queries = q.view(count * kv, each * rep, dim).transpose(1, 2)
        scores = torch.bmm(key.reshape(count * kv, width, -1), queries)
        part[..., prefix:] = scores.view(count, kv, width, -1).transpose(2, 3)
        if cached is not None:
            shared = q.transpose(0, 1).reshape(kv, -1, dim)
            over = torch.bmm(shared, cached[0].transpose(1, 2)).view(kv, count, -1, prefix)
            part[..., :prefix] = over.transpose(0, 1)
        part = rule.capped(part.mul_(rule.scaling))
        bias = self._decode_bias(width, rule.window, part).view(count, 1, each, 1, -1)
        part.view(count, kv, each, rep, -1).add_(bias)
        torch.softmax(part, dim=-1, out=part)
        weight = part[..., prefix:].reshape(count * kv, -1, width)
        out = torch.bmm(weight, value.reshape(count * kv, width, -1)).view(*part.shape[:3], -1)
        if cached is not None:
            weight = part[..., :prefix].transpose(0, 1).reshape(kv, -1, prefix)
            out = out + torch.bmm(weight, cached[1]).view(kv, count, each * rep, -1).transpose(0, 1)
        return out.view(count, kv, each, rep, -1).transpose(1, 2).reshape(len(query), heads, -1)

    def _decode_bias(self, width: int, window: int | None, like: Tensor) -> Tensor:
        """(B * each, prefix + width): a token sees the prefix and its sequence so far."""
        key = (width, window)
        if key not in self._bias:
            at = torch.arange(self.prefix + width, device=self.positions.device)
            seen = at <= self.positions[:, None]
            if window is not None:
                seen &= self.positions[:, None] - at < window
            self._bias[key] = as_bias(seen, like.dtype)
        return self._bias[key]


def _scores(q: Tensor, k: Tensor, cached: KeyValuePair | None, scaling: float) -> Tensor:
    """Scaled scores (Hkv * G, rows, prefix + keys); the prefix is read once for all subtrees."""
    kv, size, rows, dim = q.shape
    prefix = cached[0].shape[1] if cached is not None else 0
    out = q.new_empty(kv * size, rows, prefix + k.shape[1])
    queries = q.reshape(kv * size, rows, dim)
    torch.baddbmm(
        out[..., prefix:], queries, k.transpose(1, 2), beta=0, alpha=scaling, out=out[..., prefix:]
    )
    if cached is not None:
        view = out.view(kv, size * rows, -1)[..., :prefix]
        shared = q.reshape(kv, size * rows, dim)
        torch.baddbmm(view, shared, cached[0].transpose(1, 2), beta=0, alpha=scaling, out=view)
    return out


def _values(weight: Tensor, v: Tensor, cached: KeyValuePair | None, size: int) -> Tensor:
    """Weighted values (Hkv, G, rows, d)."""
    prefix = cached[1].shape[1] if cached is not None else 0
    rows = weight.shape[1]
    out = torch.bmm(weight[..., prefix:], v)
    if cached is not None:
        kv = weight.shape[0] // size
        over = torch.bmm(weight.view(kv, size * rows, -1)[..., :prefix], cached[1])
        out += over.view(kv * size, rows, -1)
    return out.view(-1, size, rows, v.shape[-1])


def pass_metadata(
    step: ForwardPass, store: SlotCache | None, device: torch.device
) -> AttentionMetadata:
    """The metadata of a planned pass."""
    return AttentionMetadata(
        positions=torch.from_numpy(step.positions).to(device),
        longest=int(step.positions.max()) + 1,
        prefix=step.prefix,
        store=store,
        keep=step.keep,
        groups=[GroupView(group, device) for group in step.groups],
    )


def decoding_metadata(
    lengths: Sequence[int],
    each: int,
    prefix: int,
    store: SlotCache,
    slots: SlotCache,
    device: torch.device,
) -> AttentionMetadata:
    """The metadata of a decoding pass: ``each`` tokens of every sequence, whose slots are in order.

    ``lengths`` (B,) are the cached tokens of each sequence, the prefix in ``store`` included.
    """
    offsets = torch.arange(each, device=device)
    at = (torch.tensor(lengths, device=device)[:, None] + offsets).view(-1)
    return AttentionMetadata(
        positions=at,
        longest=max(lengths) + each,
        prefix=prefix,
        store=store,
        slots=slots,
        slot=torch.arange(len(lengths), device=device).repeat_interleave(each),
        place=at - prefix,
        each=each,
    )


_UNSUPPORTED = ("s_aux", "position_bias", "head_mask", "alibi", "block_indices")


class UnsupportedAttentionError(Exception):
    """The model asks its attention for something that the function does not do."""


def refuse_unsupported(mask: Any, dropout: float, arguments: Mapping[str, object]) -> None:
    """Refuse a mask, dropout, and the sinks and biases among a layer's further arguments."""
    names = [name for name in _UNSUPPORTED if arguments.get(name) is not None]
    if mask is not None or dropout or names:
        raise UnsupportedAttentionError(f"attention with {names or 'a mask or dropout'}")


@contextmanager
def attention_of(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Give every part of the model this attention function; their own come back on leaving."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    configs: dict[int, Any] = {}
    for part in unwrapped(model).modules():
        config = getattr(part, "config", None)
        if getattr(config, "_attn_implementation", None) is not None:
            configs.setdefault(id(config), config)
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, own in before:
            config._attn_implementation = own
