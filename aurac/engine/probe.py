"""Can this model run packed passes? Decided by running it, once per model object.

A few made-up sequences go through the model twice: as plain rows through its own attention, and
packed (a cached prefix, a tree with branches, a decoding step) through ours. Only equal logits
admit the fast path. Limits that only bite at length are read from the configuration.

Adapter layers are switched off meanwhile: they act on each token by itself, and their rounding, or
their overflow, says nothing about the model's attention.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aurac.engine.attention import (
    AttentionMetadata,
    PrefixCache,
    SlotCache,
    decoding_metadata,
    pass_metadata,
)
from aurac.engine.passes import PrefixTree, Subtree, chain_subtree, make_pass, make_subtree
from aurac.engine.running import accepts, forward, packed_model
from aurac.models.device import device_of, difference, tolerance, unwrapped

log = logging.getLogger(__name__)

_HEAD, _TAIL = 7, 6
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Verdict:
    """Whether packed passes give a model's own answers."""

    packed: bool  # they do
    longest: int | None = None  # inputs up to this length; ``None`` for any
    reason: str = ""  # why not, or why only up to a length

    def serves(self, length: int) -> bool:
        """Whether inputs of this length can be packed."""
        return self.packed and (self.longest is None or length <= self.longest)


_VERDICTS: weakref.WeakKeyDictionary[Any, Verdict] = weakref.WeakKeyDictionary()


def probe(model: Any) -> Verdict:
    """The verdict for this model object; the first call runs it on about a hundred tokens.

    Call it within `evaluating`.
    """
    key = unwrapped(model)
    if key not in _VERDICTS:
        with _without_adapters(key):
            _VERDICTS[key] = verdict = _examine(model)
        if verdict.packed and verdict.longest is None:
            log.info("packed passes serve %s", type(key).__name__)
        elif verdict.packed:
            what = "packed passes serve %s up to %d tokens, the plain path serves longer tasks: %s"
            log.warning(what, type(key).__name__, verdict.longest, verdict.reason)
        else:
            log.warning("%s: %s; using the plain path", type(key).__name__, verdict.reason)
    return _VERDICTS[key]


@contextlib.contextmanager
def _without_adapters(model: Any) -> Iterator[None]:
    """The base alone, whichever adapter is attached."""
    peft = sys.modules.get("peft")
    if peft is None:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _examine(model: Any) -> Verdict:
    config = unwrapped(model).config
    if getattr(config, "is_encoder_decoder", False):
        return Verdict(packed=False, reason="an encoder-decoder")
    for name in ("position_ids", "logits_to_keep", "use_cache"):
        if not accepts(model, name):
            return Verdict(packed=False, reason=f"its forward takes no {name}")
    config = getattr(config, "text_config", None) or config
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= _KNOWN_LAYERS:
        return Verdict(packed=False, reason=f"layers of kind {', '.join(sorted(kinds))}")
    tree, head = _sequences(int(config.vocab_size))
    plain = _plain_logits(model, tree)
    try:
        error, windows = _compare(model, tree, head, plain)
    except Exception as problem:  # noqa: BLE001  # whatever custom code raises, the plain path serves
        return Verdict(packed=False, reason=f"a packed pass failed ({problem!r:.200})")
    limit = tolerance(model)
    if not error <= limit:
        return Verdict(packed=False, reason=f"a packed pass differs by {error:.1e} (limit {limit})")
    return _packed_verdict(config, windows)


def _packed_verdict(config: Any, windows: set[int]) -> Verdict:
    """Packed, up to the length from which on its configuration says that passes differ."""
    limits = {
        "its attention is local": _length_limit(config, windows),
        "its rotary positions change": _rotary_limit(config),
    }
    known = {why: limit for why, limit in limits.items() if limit is not None}
    if not known:
        return Verdict(packed=True)
    why = min(known, key=lambda name: known[name])
    return Verdict(packed=True, longest=known[why], reason=f"{why} beyond {known[why]} tokens")


def _length_limit(config: Any, windows: set[int]) -> int | None:
    """The shortest window in the configuration that the attention function was not told about."""
    local = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    used = getattr(config, "use_sliding_window", True)
    unseen = [int(w) for w in local if w and used and int(w) not in windows]
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and set(kinds) == {"full_attention"}:
        return None
    return min(unseen, default=None)


def _rotary_limit(config: Any) -> int | None:
    """The length from which on a pass's longest sequence changes the positions of all in it."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [part for part in rope.values() if isinstance(part, Mapping)] or [rope]
    name = "original_max_position_embeddings"
    limits = []
    for part in parts:
        kind = str(part.get("rope_type") or part.get("type"))
        if kind == "longrope" or "dynamic" in kind:
            length = part.get(name) or getattr(config, name, None) or config.max_position_embeddings
            limits.append(int(length))
    return min(limits, default=None)


def _sequences(vocabulary: int) -> tuple[PrefixTree, int]:
    """Four rows over one head, two of them sharing more; the head's length."""
    draw = np.random.default_rng(20).integers(0, vocabulary, size=_HEAD + 4 * _TAIL).tolist()
    head, parts = draw[:_HEAD], [draw[_HEAD + i * _TAIL :][:_TAIL] for i in range(4)]
    rows = [head + parts[0], head + parts[0][:3] + parts[1], head + parts[2], head + parts[3][:4]]
    return PrefixTree.build([tuple(r) for r in rows])[0], _HEAD


def _plain_logits(model: Any, tree: PrefixTree) -> list[Tensor]:
    """Each row's logits (tokens, vocabulary) from a pass of its own."""
    rows = [torch.from_numpy(row)[None].to(device_of(model)) for row in tree.rows]
    return [model(input_ids=row, use_cache=False).logits[0].float() for row in rows]


def _compare(
    model: Any, tree: PrefixTree, head: int, plain: Sequence[Tensor]
) -> tuple[float, set[int]]:
    """Largest relative difference of the packed logits from plain rows, and the windows seen."""
    device = device_of(model)
    errors, windows = [], set[int]()
    with packed_model(model):
        for number, start, logits, seen in _packed_logits(model, tree, head, device):
            errors.append(difference(logits, plain[number][start : start + len(logits)]))
            windows |= seen
    return max(errors) if not any(np.isnan(errors)) else float("nan"), windows


def _packed_logits(
    model: Any, tree: PrefixTree, head: int, device: torch.device
) -> Iterator[tuple[int, int, Tensor, set[int]]]:
    """(row, position of the first logits, logits, windows) of packed passes over the rows."""
    store = PrefixCache(head)
    trunk = chain_subtree(tree.rows[0][:head], 0)
    whole = make_subtree(tree, 0, len(tree.rows), 0)
    below = make_subtree(tree, 0, len(tree.rows), head)
    for subtrees, prefix, keep in (([trunk], 0, True), ([below], head, False), ([whole], 0, False)):
        step = make_pass(subtrees, prefix, keep=keep)
        metadata = pass_metadata(step, store, device)
        logits = forward(model, step.tokens, metadata, np.arange(len(step.tokens)))
        yield from _by_row(tree, subtrees[0], logits, metadata)
    yield from _decoded(model, tree, head, store, device)


def _by_row(
    tree: PrefixTree, subtree: Subtree, logits: Tensor, metadata: AttentionMetadata
) -> Iterator[tuple[int, int, Tensor, set[int]]]:
    if metadata.layer == 0:
        raise RuntimeError("the model does not look its attention up by name")
    if subtree.nodes[0] < 0:
        yield 0, int(subtree.positions[0]), logits, metadata.windows
        return
    owner = np.searchsorted(tree.offsets, subtree.nodes, side="right") - 1
    for row in np.unique(owner).tolist():
        at = np.flatnonzero(owner == row)
        yield row, int(subtree.positions[at[0]]), logits[torch.from_numpy(at)], metadata.windows


def _decoded(
    model: Any, tree: PrefixTree, head: int, store: PrefixCache, device: torch.device
) -> Iterator[tuple[int, int, Tensor, set[int]]]:
    """Every row but its last one to three tokens into a slot, then these as decoding steps."""
    slots = SlotCache(len(tree.rows), max(len(r) for r in tree.rows) - head)
    starts = [len(row) - 1 - i % 3 for i, row in enumerate(tree.rows)]
    order = sorted(range(len(starts)), key=lambda i: -starts[i])
    subtrees = [chain_subtree(tree.rows[i][head : starts[i]], head) for i in order]
    step = make_pass(subtrees, head)
    metadata = pass_metadata(step, store, device)
    slot = np.repeat(order, [len(u) for u in subtrees])
    metadata.slots, metadata.slot = slots, torch.from_numpy(slot).to(device)
    metadata.place = metadata.positions - head
    forward(model, step.tokens, metadata, np.cumsum([len(u) for u in subtrees]) - 1)
    for more in range(3):  # a row that has ended repeats its last token, at the same place
        places = [min(at + more, len(row) - 1) for at, row in zip(starts, tree.rows, strict=True)]
        metadata = decoding_metadata(places, head, store, slots, device)
        tokens = [int(row[at]) for at, row in zip(places, tree.rows, strict=True)]
        logits = forward(model, tokens, metadata, range(len(tokens)))
        for row, at in enumerate(places):
            yield row, at, logits[row : row + 1], metadata.windows
