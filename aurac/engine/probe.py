"""Can this model run packed passes? Decided by running it, once per model object.

A few made-up sequences go through the model twice: as plain rows through its own attention, and
packed (a cached prefix, a tree with branches, a decoding step) through ours. Only equal logits
admit the fast path. Limits that only bite at length are read from the configuration.

Adapter layers are switched off meanwhile: they act on each token by itself, and their rounding, or
their overflow, says nothing about the model's attention.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aurac.engine.attention import SlotCache, decoding_metadata, pass_metadata, upload
from aurac.engine.passes import PrefixTree, chain_subtree, make_pass, make_subtree
from aurac.engine.running import NOT_FINITE, forward, packed_model, rotary_limit, sizes_of
from aurac.errors import CellError
from aurac.models.device import device_of, no_memory, unwrapped

log = logging.getLogger(__name__)

# Of `difference`. Seen on the packaged base (30 layers, bf16): rounding alone puts two passes up to
# 0.16 apart; a missing mask gives 1.0 to 1.7, a sequence that sees another one or positions off by
# one 0.3 and more.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2.2e-1}

_HEAD, _TAIL = 7, 6
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class ProbeResult:
    """Up to which length of inputs packed passes give a model's own answers."""

    longest: float  # in tokens: infinite where they always do, 0 where they never do
    reason: str = ""  # why not all


_KNOWN: weakref.WeakKeyDictionary[Any, ProbeResult] = weakref.WeakKeyDictionary()


def probe(model: Any) -> ProbeResult:
    """The result for this model object; the first call runs it on about a hundred tokens.

    Call it within `torch.inference_mode`.
    """
    key = unwrapped(model)
    if key not in _KNOWN:
        with _without_adapters(key):
            _KNOWN[key] = result = _examine(model)
        what = "packed passes serve %s up to %g tokens, lm-eval's HFLM longer inputs: %s"
        level = logging.WARNING if result.reason else logging.INFO
        log.log(level, what, type(key).__name__, result.longest, result.reason)
    return _KNOWN[key]


@contextlib.contextmanager
def _without_adapters(model: Any) -> Iterator[None]:
    """Switch every adapter off in this block."""
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


def _examine(model: Any) -> ProbeResult:
    config = unwrapped(model).config
    missing = {"position_ids", "logits_to_keep", "use_cache"}
    missing -= set(inspect.signature(unwrapped(model).forward).parameters)
    if missing:
        return ProbeResult(0, f"its forward takes no {' and no '.join(missing)}")
    config = getattr(config, "text_config", None) or config
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= _KNOWN_LAYERS:
        return ProbeResult(0, f"layers of kind {', '.join(sorted(kinds))}")
    tree = _sequences(int(config.vocab_size))
    plain = _plain_logits(model, tree)
    if not plain.amax(dim=-1).isfinite().all():
        raise CellError(NOT_FINITE)
    dtype = str(next(iter(model.parameters())).dtype).removeprefix("torch.")
    limit, windows = _TOLERANCE.get(dtype, 0.1), set[int]()
    try:
        with packed_model(model):
            passes = _packed_passes(model, tree, windows)
            error = np.max([difference(logits, plain[nodes]) for nodes, logits in passes])
    except Exception as problem:
        if no_memory(problem):
            raise
        # Whatever else custom code raises, HFLM serves.
        return ProbeResult(0, f"a packed pass failed ({problem!r:.200})")
    if not error <= limit:
        return ProbeResult(0, f"a packed pass differs by {error:.1e} (limit {limit})")
    limits = (
        (_length_limit(config, windows), "its attention is local"),
        (rotary_limit(config), "its rotary positions change"),
    )
    known = [(longest, why) for longest, why in limits if longest is not None]
    longest, why = min(known, default=(math.inf, ""))
    return ProbeResult(longest, why and f"{why} beyond {longest} tokens")


def _length_limit(config: Any, windows: set[int]) -> int | None:
    """The shortest window in the configuration of which no layer told the attention function."""
    local = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    used = getattr(config, "use_sliding_window", True)
    unseen = [int(w) for w in local if w and used and int(w) not in windows]
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and set(kinds) == {"full_attention"}:
        return None
    return min(unseen, default=None)


def _sequences(vocabulary: int) -> PrefixTree:
    """Four sequences that share their first tokens; two of them share some more."""
    draw = np.random.default_rng(20).integers(0, vocabulary, size=_HEAD + 4 * _TAIL).tolist()
    head, parts = draw[:_HEAD], [draw[_HEAD + i * _TAIL :][:_TAIL] for i in range(4)]
    rows = [head + parts[0], head + parts[0][:3] + parts[1], head + parts[2], head + parts[3][:4]]
    return PrefixTree.build([tuple(r) for r in rows])[0]


def _plain_logits(model: Any, tree: PrefixTree) -> Tensor:
    """The logits (n_nodes, V) of the tree's nodes, by one pass of the model itself for each row."""
    parts = []
    for row, shared in zip(tree.rows, tree.shared, strict=True):
        tokens = torch.from_numpy(row)[None].to(device_of(model))
        parts.append(model(input_ids=tokens, use_cache=False).logits[0, shared:].float())
    return torch.cat(parts)


def _packed_passes(model: Any, tree: PrefixTree, windows: set[int]) -> Iterator[tuple[Any, Tensor]]:
    """(nodes, their logits) of each kind of packed pass.

    They are a cached head, a tree below it, a whole tree, and decoding passes of one and of two
    tokens. The windows of which layers tell the attention function are added to ``windows``.
    """
    device, sizes = device_of(model), sizes_of(model)
    store = SlotCache(1, -(-_HEAD // sizes.align) * sizes.align)
    trunk = chain_subtree(tree.rows[0][:_HEAD], 0)
    below, whole = (make_subtree(tree, 0, len(tree.rows), depth) for depth in (_HEAD, 0))
    for subtree, prefix, nodes in (
        (trunk, 0, np.arange(_HEAD)),
        (below, _HEAD, below.nodes),
        (whole, 0, whole.nodes),
    ):
        step = make_pass([subtree], prefix, sizes, keep=subtree is trunk)
        metadata = pass_metadata(step, store, device, sizes)
        (tokens,) = upload(device, step.tokens)
        yield nodes, forward(model, tokens, metadata)
        if metadata.layer == 0:
            raise RuntimeError("the model does not look its attention up by name")
        windows |= metadata.windows
    # Every row but its last three tokens into a slot, then one and two of these as decoding steps.
    slots = SlotCache(len(tree.rows), max(len(row) for row in tree.rows) - _HEAD)
    starts = [len(row) - 3 for row in tree.rows]
    order = sorted(range(len(starts)), key=lambda i: -starts[i])
    chains = [chain_subtree(tree.rows[i][_HEAD : starts[i]], _HEAD) for i in order]
    step = make_pass(chains, _HEAD, sizes)
    metadata = pass_metadata(step, store, device, sizes)
    slot = np.repeat(order, [len(chain) for chain in chains])
    tokens, metadata.slot = upload(device, step.tokens, slot)
    metadata.slots, metadata.place = slots, metadata.positions - _HEAD
    forward(model, tokens, metadata)
    for done, each in ((0, 1), (1, 2)):
        places = [(row, at + done + k) for row, at in enumerate(starts) for k in range(each)]
        ids = [int(tree.rows[row][at]) for row, at in places]
        tokens, positions = upload(device, ids, [at for _, at in places])
        metadata = decoding_metadata(positions, each, _HEAD, store, slots, sizes)
        nodes = np.asarray([tree.node(row, at) for row, at in places])
        yield nodes, forward(model, tokens, metadata)


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance between logits (n, V), relative to the spread of the expected ones."""
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm()
    return float((logits.float() - expected).norm() / spread)
