"""Running a model: budgets, packed passes, logits at chosen positions and what is read of them."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aurac.engine.attention import AttentionMetadata, ScoreRule, SlotCache, pass_metadata, upload
from aurac.engine.layers import fewer_operations
from aurac.engine.passes import ACCELERATOR, CPU, ForwardPass, Sizes, chain_subtree, make_pass
from aurac.errors import CellError
from aurac.models.device import device_of, no_memory, unwrapped

log = logging.getLogger(__name__)

_LEAST_CACHED, _CACHE_BYTES = 32_768, 2 << 30  # tokens, bytes: on a CPU
_OF_FREE = 0.8  # of an accelerator's memory; passes take the rest
_HFLM_ROWS = 16  # on an accelerator
_PIECE = 256  # logits whose maximum is taken at once


def sizes_of(model: Any) -> Sizes:
    """How work is cut where the model is."""
    return CPU if device_of(model).type == "cpu" else ACCELERATOR


def cached_tokens(model: Any) -> int:
    """The number of tokens whose keys and values may be kept while decoding.

    On CUDA as many as four fifths of the free memory take; elsewhere as many as 2 GiB take, and at
    least 32,768.
    """
    try:
        config: Any = model.config.get_text_config()
        queries, width = config.num_attention_heads, getattr(config, "head_dim", None)
        heads = getattr(config, "num_key_value_heads", None) or queries
        places = 2 * config.num_hidden_layers * heads * (width or config.hidden_size // queries)
    except AttributeError:  # no attention; it is not served
        return _LEAST_CACHED
    size, device = places * model.dtype.itemsize, device_of(model)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _OF_FREE) // size
    return max(_LEAST_CACHED, _CACHE_BYTES // size)


def rotary_limit(config: Any) -> int | None:
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


@dataclass
class Budgets:
    """How much is computed at once; none of it changes an answer beyond rounding."""

    tokens: int  # most in one pass; a longer prompt is one pass
    sequences: int  # most in flight while decoding
    cached: int  # most tokens whose keys and values are held while decoding
    rows: int = 1  # requests in a batch of ``HFLM``

    @classmethod
    def of(cls, model: Any, batch_size: int | None = None) -> Budgets:
        """The budgets for a model on its device, with at most ``batch_size`` sequences."""
        sizes = sizes_of(model)
        rows = batch_size or (1 if sizes is CPU else _HFLM_ROWS)
        if rotary_limit(model.config.get_text_config()) is not None:
            rows = 1  # in a batch the longest row would change the answers to the others
        return cls(sizes.tokens, batch_size or 256, cached_tokens(model), rows)

    def halve(self) -> bool:
        """Halve every budget; return False where each is as small as it may be."""
        before = replace(self)
        self.tokens = max(64, self.tokens // 2)
        self.sequences = max(1, self.sequences // 2)
        self.cached = max(512, self.cached // 2)
        self.rows = max(1, self.rows // 2)
        return self != before

    def grow(self, whole: Budgets) -> None:
        """Double every budget, up to what it was at first."""
        for name, most in vars(whole).items():
            setattr(self, name, min(2 * getattr(self, name), most))


@contextlib.contextmanager
def sparing(budgets: Budgets) -> Iterator[None]:
    """Where memory does not suffice in this block, halve the budgets and leave it without an error.

    The caller repeats what is missing. Other errors are raised, and so is a memory error where no
    budget can be halved any more.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error) or not budgets.halve():
            raise
        log.warning("out of memory: from here on %s", budgets)
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed pass
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


NOT_FINITE = "the model gave a logit that is no finite number: try --dtype float32"


@contextlib.contextmanager
def finite_logits(model: Any) -> Iterator[None]:
    """Refuse logits of the model's own generation whose argmax is no answer.

    Raises:
        CellError: At the end; on an accelerator the results are not there before.
    """
    good: list[Tensor] = []

    def look(_model: Any, _inputs: Any, output: Any) -> None:
        # Single logits of -inf are how some models rule tokens out. A tenth of isfinite's cost.
        good.append(output.logits.amax(dim=-1).isfinite().all())

    hook = unwrapped(model).register_forward_hook(look)
    try:
        yield
        if good and not torch.stack(good).all():
            raise CellError(NOT_FINITE)
    finally:
        hook.remove()


def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first argmax (n,) and the maximum (n,) of each row of logits (n, V); NaN is the largest.

    They are found by the maxima of pieces, since on a CPU `argmax` takes several times as long as
    `amax`.
    """
    number, piece = len(logits), math.gcd(logits.shape[1], _PIECE)
    rows = torch.arange(number, device=logits.device)
    pieces = logits.reshape(number, -1, piece)
    which = pieces.amax(dim=-1).argmax(dim=-1)
    inside = pieces[rows, which]
    place = inside.argmax(dim=-1)
    return which * piece + place, inside[rows, place]


def score_logits(
    logits: Tensor, row: Tensor, token: Tensor, chunk: int = CPU.rows
) -> tuple[Tensor, Tensor]:
    """Log-probability of tokens (m,) at rows (m,) of logits (n, V), and whether each is the argmax.

    Log-softmax is computed in float32, of ``chunk`` rows at once so that the copy stays small.
    """
    best, top = best_tokens(logits)
    sums = [
        (part.float() - most.float()[:, None]).exp_().sum(dim=-1)
        for part, most in zip(logits.split(chunk), top.split(chunk), strict=True)
    ]
    norm = torch.cat(sums).log_() + top
    return logits[row, token].float() - norm[row], best[row] == token


NAME = "aurac_packed"
_UNSUPPORTED = ("s_aux", "position_bias", "head_mask", "alibi", "block_indices")  # sinks, biases
_CURRENT: ContextVar[AttentionMetadata | None] = ContextVar("aurac_frame", default=None)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of a transformers layer under the current metadata, which is the mask.

    query is (1, H, T, d) with positions applied, key and value are (1, Hkv, T, d). The result is
    (1, T, H, d) without weights; a layer that needs something else gets an error.
    """
    del module
    metadata = _CURRENT.get()
    needed = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if needed or attention_mask is not None or dropout or metadata is None or len(query) != 1:
        raise NotImplementedError(f"attention with {needed or 'a mask, dropout or a batch'}")
    if sliding_window is not None:
        metadata.windows.add(sliding_window)
    layer, metadata.layer = metadata.layer, metadata.layer + 1
    out = metadata.on(query.device).attend(
        layer,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        ScoreRule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap),
    )
    return out[None], None


@contextlib.contextmanager
def packed_model(model: Any) -> Iterator[None]:
    """Give the model packed attention and layers of fewer operations; undone on leaving."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    found = {id(c): c for m in unwrapped(model).modules() if (c := getattr(m, "config", None))}
    before = [(c, own) for c in found.values() if (own := getattr(c, "_attn_implementation", None))]
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        with fewer_operations(model):
            yield
    finally:
        for config, own in before:
            config._attn_implementation = own


def forward(
    model: Any, tokens: Tensor, metadata: AttentionMetadata, select: Tensor | list[int] | int = 0
) -> Tensor:
    """The logits (S, V) of a packed pass of tokens (T,) at the selected places (S,); 0 is all."""
    if isinstance(select, Tensor) and getattr(unwrapped(model), "hf_device_map", None):
        select = select.tolist()  # a tensor would go to the first device, not to the last layer's
    current = _CURRENT.set(metadata)
    try:
        logits: Tensor = model(
            input_ids=tokens[None],
            position_ids=metadata.positions[None],
            use_cache=False,
            logits_to_keep=select,
        ).logits
    finally:
        _CURRENT.reset(current)
    return logits[0]


def run_pass(
    model: Any, step: ForwardPass, cache: SlotCache, *more: NDArray[np.int64]
) -> tuple[Tensor, list[Tensor]]:
    """The logits (S, V) of a planned pass at the places that it selects, or else at its first.

    Also returns ``more`` on the model's device.
    """
    select = step.select if len(step.select) else np.zeros(1, dtype=np.int64)
    device = device_of(model)
    tokens, chosen, *rest = upload(device, step.tokens, select, *more)
    metadata = pass_metadata(step, cache, device, sizes_of(model))
    return forward(model, tokens, metadata, chosen), rest


@dataclass(eq=False)
class Header:
    """Tokens with which every input begins, and their keys and values for one state of a model."""

    tokens: tuple[int, ...] = ()  # the (h,) tokens; empty where the inputs share too little
    cache: SlotCache = field(default_factory=lambda: SlotCache(1, 0))  # for longer prefixes, too
    computed: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def compute(self, model: Any, longest: int = 0) -> None:
        """Make room for the longest prefix; the first time, compute the header into it.

        Call it within `packed_model`.
        """
        align = sizes_of(model).align
        if (width := -(-max(longest, len(self)) // align) * align) > self.cache.width:
            self.cache.resize(1, width)
        if self.tokens and not self.computed:
            whole = make_pass([chain_subtree(self.tokens, 0)], 0, sizes_of(model), keep=True)
            run_pass(model, whole, self.cache)
            self.computed = True


# Settings of a model's own generation that leave greedy decoding as it is.
_HARMLESS = frozenset(
    {
        "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
        "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff",
        "eta_cutoff", "max_length", "use_cache", "cache_implementation", "return_dict_in_generate",
        "output_attentions", "output_hidden_states", "output_scores", "output_logits",
        "transformers_version",
    }
)  # fmt: skip
_NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1, "num_beam_groups": 1, "length_penalty": 1.0}


def plainly_greedy(model: Any) -> bool:
    """Whether the model's generation settings add nothing to greedy decoding (a penalty, beams)."""
    config = getattr(unwrapped(model), "generation_config", None)
    if config is None:
        return True
    return not any(
        value is not None and not name.startswith("_") and value != _NEUTRAL.get(name, ...)
        for name, value in config.to_diff_dict().items()
        if name not in _HARMLESS
    )


def eos_token_ids(model: Any) -> frozenset[int]:
    """The tokens at which the model's own generation ends a sequence."""
    config = getattr(unwrapped(model), "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, (list, tuple)) else (ids,))
