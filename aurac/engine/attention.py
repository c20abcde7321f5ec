"""Attention over packed subtrees, over a cached prefix, and over decoding slots; their caches.

``AttentionMetadata`` says what the tokens of one pass see. The products are plain batched matrix
products over blocks of queries, which on a CPU in bf16 are about three times as fast as the
built-in kernel. Keys of grouped-query models are never repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from aurac.engine.passes import ForwardPass, Group, IntArray, Sizes
from aurac.models.device import unwrapped

KeyValuePair = tuple[Tensor, Tensor]


def upload(device: torch.device, *arrays: IntArray | Sequence[int]) -> list[Tensor]:
    """Whole numbers on a device, by one copy for which the host does not wait."""
    parts = [np.asarray(array, dtype=np.int64) for array in arrays]
    flat = torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts]))
    if device.type == "cuda":
        flat = flat.pin_memory()
    pieces = flat.to(device, non_blocking=True).split([part.size for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class SlotCache:
    """Keys (Hkv, slots, d, width) and values (Hkv, slots, width, d) of sequences, per layer.

    Places beyond a sequence's length are masked: zero, or left by a sequence or a wrong draft
    before.
    """

    def __init__(self, slots: int, width: int) -> None:
        self.slots = slots
        self.width = width
        self.layers: list[KeyValuePair] = []

    def layer(self, number: int, key: Tensor, value: Tensor) -> KeyValuePair:
        """The stored tensors of a layer, made where these (T, Hkv, d) are its first."""
        while len(self.layers) <= number:
            keys = key.new_zeros(key.shape[1], self.slots, key.shape[2], self.width)
            values = value.new_zeros(value.shape[1], self.slots, self.width, value.shape[2])
            self.layers.append((keys, values))
        return self.layers[number]

    def read(self, length: int, step: int) -> int:
        """How many places of the slots are read for so many tokens.

        In steps, so that the kernels for one shape serve several passes.
        """
        return min(-(-length // step) * step, self.width)

    def write(self, layer: int, slot: Tensor, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Put (T, Hkv, d) keys and values at (slot, place), both (T,)."""
        keys, values = self.layer(layer, key, value)
        keys[:, slot, :, place] = key
        values[:, slot, place] = value.transpose(0, 1)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy whole slots."""
        for pair in self.layers:
            place = pair[0].device
            here, there = (x.to(place, non_blocking=True) for x in (source, target))
            for store in pair:
                store[:, there] = store[:, here]

    def resize(self, slots: int, width: int) -> None:
        """Change the number of slots and their width; what fits is kept."""
        keep, wide = min(slots, self.slots), min(width, self.width)
        for i, (key, value) in enumerate(self.layers):
            keys = key.new_zeros(len(key), slots, key.shape[2], width)
            keys[:, :keep, :, :wide] = key[:, :keep, :, :wide]
            values = value.new_zeros(len(value), slots, width, value.shape[3])
            values[:, :keep, :wide] = value[:, :keep, :wide]
            self.layers[i] = keys, values
        self.slots, self.width = slots, width


class Block(NamedTuple):
    """Queries ``start:stop`` of a subtree see keys ``0:stop``; from ``clean`` on through a bias."""

    start: int
    stop: int
    clean: int


class GroupView:
    """A group on the device, with masks that are made once for all layers."""

    def __init__(self, start: int, end: Tensor, place: Tensor, blocks: Sequence[Block]) -> None:
        self.rows = slice(start, start + end.numel())  # of the padded ones
        self.size, self.length = end.shape
        self.blocks = blocks
        self._end, self._place = end, place  # (G, L) subtree ends, and positions
        self._bias: dict[Any, Tensor] = {}

    def on(self, device: torch.device) -> GroupView:
        """The same on another device."""
        end, place = (x.to(device, non_blocking=True) for x in (self._end, self._place))
        return GroupView(self.rows.start, end, place, self.blocks)

    def bias(self, block: Block, prefix: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """(G, n, keys) what hides keys from ``block.clean`` on; with a window all, and the prefix.

        0 where a key is seen, -inf elsewhere.
        """
        key = block, window, dtype
        if key not in self._bias:
            first = block.clean if window is None else 0
            query, keys = (
                torch.arange(*ends, device=self._end.device)
                for ends in ((block.start, block.stop), (first, block.stop))
            )
            seen = keys <= query[:, None]
            seen = seen & (query[:, None] < self._end[:, None, first : block.stop])
            if window is not None:
                held = torch.arange(prefix, device=keys.device).expand(self.size, prefix)
                at = torch.cat([self._place[:, : block.stop], held], dim=1)
                gap = self._place[:, block.start : block.stop, None] - at[:, None]
                # Padding repeats a position; its own key is always within the window.
                seen = functional.pad(seen, (0, prefix), value=True) & (gap < window)
            self._bias[key] = as_bias(seen, dtype)
        return self._bias[key]


def as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def _blocks(group: Group, prefix: int, sizes: Sizes) -> Iterator[Block]:
    size, length = group.end.shape
    shortest = group.end.min(axis=0)
    rows = max(1, min(sizes.queries, sizes.scores // (size * (length + prefix))))
    for start in range(0, length, rows):
        stop = min(start + rows, length)
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
    sizes: Sizes
    prefix: int = 0  # held tokens that every token sees
    store: SlotCache | None = None  # where they are cached, in its one slot
    groups: Sequence[GroupView] = ()  # subtrees of a packed pass; empty when decoding
    padded: Tensor | None = None  # (N,) tokens of the groups' rows; ``None``: none is padded
    row: Tensor | None = None  # (T,) their places there
    slots: SlotCache | None = None  # decoding slots
    slot: Tensor | None = None  # (W,) slot of each token that is written, or ``None``
    place: Tensor | None = None  # (W,) its place in the slot
    # (W,) which of this pass's tokens is written; ``None`` writes all T in order
    source: Tensor | None = None
    each: int = 0  # of sequences that read their slots, so many tokens of each; 0: a packed pass
    layer: int = 0
    windows: set[int] = field(default_factory=set)
    _bias: dict[Any, Tensor] = field(default_factory=dict)
    _elsewhere: dict[torch.device, AttentionMetadata] = field(default_factory=dict)

    def on(self, device: torch.device) -> AttentionMetadata:
        """The same for layers on another device."""
        if device == self.positions.device:
            return self
        if device not in self._elsewhere:
            names = ("positions", "padded", "row", "slot", "place", "source")
            moved = {
                name: value.to(device, non_blocking=True)
                for name in names
                if (value := getattr(self, name)) is not None
            }
            groups = [group.on(device) for group in self.groups]
            self._elsewhere[device] = replace(self, **moved, groups=groups, _bias={})
        return self._elsewhere[device]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: ScoreRule
    ) -> Tensor:
        """(T, H, d) queries over (T, Hkv, d) new keys and whatever else this metadata sees."""
        cached = None
        if self.prefix and self.store is not None:
            held = self.store.layers[layer]
            wide = -(-self.prefix // self.sizes.align) * self.sizes.align
            cached = held[0][:, 0, :, :wide], held[1][:, 0, :wide]
        if self.slots is not None and self.slot is not None and self.place is not None:
            new = key, value
            if self.source is not None:
                new = key.index_select(0, self.source), value.index_select(0, self.source)
            self.slots.write(layer, self.slot, self.place, *new)
        if rule.window is not None and self.longest <= rule.window:
            rule = rule._replace(window=None)
        if self.each and self.slots is not None:
            return self._decode(query, self.slots.layers[layer], cached, rule)
        return self._packed(query, key, value, cached, rule)

    def _packed(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cached: KeyValuePair | None,
        rule: ScoreRule,
    ) -> Tensor:
        """(T, H, d) queries of subtrees, over the tokens of their own and the prefix."""
        heads, kv = query.shape[1], key.shape[1]
        if self.padded is not None:
            query, key, value = (x.index_select(0, self.padded) for x in (query, key, value))
        out = query.new_empty(len(query), heads, value.shape[-1])
        for group in self.groups:
            # Each (Hkv, G, L, heads for one of keys, d)
            q, k, v, result = (
                x[group.rows]
                .reshape(group.size, group.length, kv, -1, x.shape[-1])
                .permute(2, 0, 1, 3, 4)
                for x in (query, key, value, out)
            )
            k, v = k[:, :, :, 0].contiguous(), v[:, :, :, 0].contiguous()
            for block in group.blocks:
                at, upto = slice(block.start, block.stop), slice(block.stop)
                bias = group.bias(block, self.prefix, rule.window, query.dtype)
                own = k[:, :, upto].mT, v[:, :, upto]
                result[:, :, at] = self._weighted(q[:, :, at], own, cached, rule, bias)
        return out if self.row is None else out.index_select(0, self.row)

    def _decode(
        self, query: Tensor, slot_kv: KeyValuePair, cached: KeyValuePair | None, rule: ScoreRule
    ) -> Tensor:
        """(B * each, H, d) queries of sequences over their slots and the prefix."""
        kv, each = len(slot_kv[0]), self.each
        count, width = len(query) // each, self.longest - self.prefix
        q = query.unflatten(1, (kv, -1)).unflatten(0, (count, each)).permute(2, 0, 1, 3, 4)
        own = slot_kv[0][:, :count, :, :width], slot_kv[1][:, :count, :width]
        bias = self._decode_bias(width, rule.window, query.dtype)
        out = self._weighted(q, own, cached, rule, bias)
        return out.permute(1, 2, 0, 3, 4).reshape(len(query), query.shape[1], -1)

    def _weighted(
        self,
        q: Tensor,
        own: KeyValuePair,
        cached: KeyValuePair | None,
        rule: ScoreRule,
        bias: Tensor,
    ) -> Tensor:
        """Values (Hkv, G, n, heads for one of keys, d) for queries of this shape.

        They see keys (Hkv, G, d, keys) of their own, and the prefix, which is read once for all of
        them. ``bias`` (G, n, columns) hides the last of their own, or with the prefix all.
        """
        shape, q, (k, v) = q.shape, q.flatten(2, 3), own
        keys, wide = k.shape[3], 0 if cached is None else cached[0].shape[-1]
        part = q.new_empty(*q.shape[:3], keys + wide)
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        _product(q, k, part[..., :keys], rule.scaling)
        if cached is not None:
            over, scale = part.flatten(1, 2)[..., keys:], rule.scaling
            torch.baddbmm(over, q.flatten(1, 2), cached[0], beta=0, alpha=scale, out=over)
        part = rule.capped(part)
        end = keys if rule.window is None else keys + self.prefix
        hidden = part.unflatten(2, shape[2:4])[..., end - bias.shape[-1] : end]
        hidden.add_(bias[None, :, :, None])
        if wide > self.prefix:
            part[..., keys + self.prefix :] = -math.inf
        torch.softmax(part, dim=-1, out=part)
        _product(part[..., :keys], v, out)
        if cached is not None:
            over = out.flatten(1, 2)
            torch.baddbmm(over, part.flatten(1, 2)[..., keys:], cached[1], out=over)
        return out.unflatten(2, shape[2:4])

    def _decode_bias(self, width: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, each, width) a sequence so far; with a window (.., width + prefix) and the prefix."""
        key = (width, window)
        if key not in self._bias:
            at = torch.arange(self.prefix, self.prefix + width, device=self.positions.device)
            if window is not None:
                at = torch.cat([at, torch.arange(self.prefix, device=at.device)])
            seen = at <= self.positions[:, None]
            if window is not None:
                seen &= self.positions[:, None] - at < window
            self._bias[key] = as_bias(seen, dtype).view(-1, self.each, len(at))
        return self._bias[key]


def _product(a: Tensor, b: Tensor, out: Tensor, scale: float = 1.0) -> None:
    """Products (Hkv, G, ..) of matrices; one for each head of keys where slots are left out."""
    whole = b.stride(0) == b.shape[1] * b.stride(1)
    parts = [[x.flatten(0, 1) for x in (a, b, out)]] if whole else zip(a, b, out, strict=True)
    for left, right, result in parts:
        torch.baddbmm(result, left, right, beta=0, alpha=scale, out=result)


def pass_metadata(
    step: ForwardPass, store: SlotCache | None, device: torch.device, sizes: Sizes
) -> AttentionMetadata:
    """The metadata of a planned pass."""
    ends = [group.end for group in step.groups]
    positions, padded, row, place, *ends_there = upload(
        device, step.positions, step.padded, step.row, step.positions[step.padded], *ends
    )
    views = []
    for group, end in zip(step.groups, ends_there, strict=True):
        own = place[group.start : group.start + end.numel()].view(end.shape)
        views.append(GroupView(group.start, end, own, tuple(_blocks(group, step.prefix, sizes))))
    full = len(step.padded) == len(step.row)
    return AttentionMetadata(
        positions=positions,
        longest=int(step.positions.max()) + 1,
        sizes=sizes,
        prefix=step.prefix,
        store=store,
        groups=views,
        padded=None if full else padded,
        row=None if full else row,
        slots=store if step.keep else None,
        slot=torch.zeros_like(positions) if step.keep else None,
        place=positions,
    )


def decoding_metadata(
    positions: Tensor,
    longest: int,
    each: int,
    prefix: int,
    store: SlotCache,
    slots: SlotCache,
    sizes: Sizes,
) -> AttentionMetadata:
    """The metadata of a decoding pass: ``each`` tokens of every sequence, whose slots are in order.

    ``positions`` (B * each,) are those of the tokens, all below ``longest``, up to which slots are
    read; the prefix is in ``store``.
    """
    slot = torch.arange(len(positions) // each, device=positions.device)
    return AttentionMetadata(
        positions=positions,
        longest=longest,
        sizes=sizes,
        prefix=prefix,
        store=store,
        slots=slots,
        slot=slot if each == 1 else slot.repeat_interleave(each, output_size=len(positions)),
        place=positions - prefix,
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
