"""Running a model: evaluation mode, packed passes, fused LoRA layers, logits at chosen positions.

PEFT's linear layer computes ``base(x) + B(A(x)) * scaling``. In evaluation that is one matrix
product and a second, low-rank one that scales and adds into its result: three operations instead of
up to ten. On a 16-bit base PEFT holds the factors in float32 and casts every activation to it and
back; here the products are in the base's type with float32 accumulation, and the sum is rounded
once. Layers of any other kind are left as they are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from aurac.engine.attention import (
    AttentionMetadata,
    ScoreRule,
    SlotCache,
    UnsupportedAttentionError,
    attention_of,
    pass_metadata,
    refuse_unsupported,
)
from aurac.engine.passes import ForwardPass, chain_subtree, make_pass
from aurac.errors import CellError
from aurac.models.device import device_of, unwrapped

Indices = Sequence[int] | NDArray[np.int64] | Tensor


_LEAST_CACHED, _CACHE_BYTES = 32_768, 2 << 30


def cached_tokens(model: Any) -> int:
    """How many tokens' keys and values may be kept while decoding: 32,768, or what 2 GiB take."""
    try:
        config: Any = model.config.get_text_config()
        queries, width = config.num_attention_heads, getattr(config, "head_dim", None)
        heads = getattr(config, "num_key_value_heads", None) or queries
        places = 2 * config.num_hidden_layers * heads * (width or config.hidden_size // queries)
    except AttributeError:  # no attention; it is not served
        return _LEAST_CACHED
    return max(_LEAST_CACHED, _CACHE_BYTES // (places * model.dtype.itemsize))


@dataclass
class Budgets:
    """How much is computed at once; none of it changes an answer beyond rounding."""

    tokens: int  # most in one pass; a longer prompt is one pass
    sequences: int  # most in flight while decoding
    cached: int  # most tokens whose keys and values are held while decoding

    @classmethod
    def of(cls, model: Any, batch_size: int | None = None) -> Budgets:
        """Those for a model where it is, with at most ``batch_size`` sequences."""
        tokens = 1024 if device_of(model).type == "cpu" else 8192
        return cls(tokens, batch_size or 256, cached_tokens(model))

    def halve(self) -> bool:
        """Half of everything; False where it is as little as it may be."""
        before = replace(self)
        self.tokens = max(64, self.tokens // 2)
        self.sequences = max(1, self.sequences // 2)
        self.cached = max(512, self.cached // 2)
        return self != before


@contextlib.contextmanager
def finite_logits(model: Any) -> Iterator[None]:
    """Refuse logits whose argmax is no answer: a NaN, an infinity, or no token left in a place.

    Raises:
        CellError: On a CPU after the first such pass, elsewhere at the end.
    """
    on_cpu = device_of(model).type == "cpu"
    broken: Tensor | None = None

    def refuse() -> None:
        if broken is not None and broken:
            raise CellError("the model gave a logit that is no finite number: try --dtype float32")

    def look(_model: Any, _inputs: Any, output: Any) -> None:
        nonlocal broken
        # Single logits of -inf are how some models rule tokens out. A tenth of isfinite's cost.
        bad = ~output.logits.amax(dim=-1).isfinite().all()
        broken = bad if broken is None else broken | bad
        if on_cpu:  # elsewhere the result is not there yet
            refuse()

    hook = unwrapped(model).register_forward_hook(look)
    try:
        yield
        refuse()
    finally:
        hook.remove()


def score_logits(
    logits: Tensor, row: Indices, token: Indices, chunk: int = 32
) -> tuple[Tensor, Tensor]:
    """Log-probability of tokens (m,) at rows (m,) of logits (n, V), and whether each is the argmax.

    Log-softmax is in float32, of ``chunk`` rows at once so that the copy stays small.
    """
    row, token = (torch.as_tensor(part, device=logits.device) for part in (row, token))
    top, picked = logits.amax(dim=-1), logits[row, token]
    sums = [
        (part.float() - most.float()[:, None]).exp_().sum(dim=-1)
        for part, most in zip(logits.split(chunk), top.split(chunk), strict=True)
    ]
    norm = torch.cat(sums).log_() + top
    logprob = picked.float() - norm[row]
    if logits.device.type != "cpu":  # which rows to look at could be asked of the device only
        return logprob, logits.argmax(dim=-1)[row] == token
    return logprob, _is_first_of_best(logits, row, token, picked == top[row])


def _is_first_of_best(logits: Tensor, row: Tensor, token: Tensor, among_best: Tensor) -> Tensor:
    """Whether tokens are their rows' argmax; of equal logits the first is.

    On a CPU argmax costs several maxima: only rows where a scored token has it are looked at.
    """
    rows, place = row[among_best].unique(return_inverse=True)
    result = among_best.clone()
    result[among_best] = logits[rows].argmax(dim=-1)[place] == token[among_best]
    return result


NAME = "aurac_packed"
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
    (1, T, H, d) without weights; a layer that needs something else gets an
    UnsupportedAttentionError.
    """
    del module
    metadata = _CURRENT.get()
    refuse_unsupported(attention_mask, dropout, kwargs)
    if metadata is None or len(query) != 1:
        raise UnsupportedAttentionError("attention outside a packed pass, or with a batch")
    if sliding_window is not None:
        metadata.windows.add(sliding_window)
    out = metadata.attend(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        ScoreRule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap),
    )
    return out[None], None


@contextlib.contextmanager
def packed_model(model: Any) -> Iterator[None]:
    """Give the model packed attention and fused LoRA layers; undone on leaving."""
    with attention_of(model, NAME, packed_attention), fused_adapters(model):
        yield


def forward(model: Any, tokens: Indices, metadata: AttentionMetadata, select: Indices) -> Tensor:
    """(S, V) logits of a packed pass of (T,) tokens at the (S,) selected places."""
    device = metadata.positions.device
    current = _CURRENT.set(metadata)
    try:
        logits: Tensor = model(
            input_ids=torch.as_tensor(tokens, device=device)[None],
            position_ids=metadata.positions[None],
            use_cache=False,
            logits_to_keep=torch.as_tensor(select, device=device),
        ).logits
    finally:
        _CURRENT.reset(current)
    return logits[0]


def run_pass(model: Any, step: ForwardPass, cache: SlotCache) -> Tensor:
    """(S, V) logits of a planned pass, read at its first place where it selects none."""
    select = step.select if len(step.select) else np.zeros(1, dtype=np.int64)
    return forward(model, step.tokens, pass_metadata(step, cache, device_of(model)), select)


@dataclass(eq=False)
class Header:
    """Tokens with which every input begins, and their keys and values for one state of a model."""

    tokens: tuple[int, ...] = ()  # the (h,) tokens; empty where the inputs share too little
    cache: SlotCache = field(default_factory=lambda: SlotCache(1, 0))  # for longer prefixes, too
    computed: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def compute(self, model: Any, longest: int = 0) -> None:
        """Make room for the longest prefix, and fill it, the first time, within `packed_model`."""
        if (width := max(longest, len(self))) > self.cache.width:
            self.cache.resize(1, width)
        if self.tokens and not self.computed:
            run_pass(model, make_pass([chain_subtree(self.tokens, 0)], 0, keep=True), self.cache)
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


def _hooked(*modules: Any) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def _plain(layer: Any) -> bool:
    """Whether the layer is an ordinary linear layer with ordinary LoRA around it."""
    base = layer.base_layer
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if type(base) is not torch.nn.Linear or layer.merged or len(active) > 1 or _hooked(layer, base):
        return False
    if hasattr(base, "_hf_hook"):  # accelerate brings its weight only while it runs
        return False
    if not active:
        return True
    maps = layer.lora_A[active[0]], layer.lora_B[active[0]]
    plain = all(type(part) is torch.nn.Linear and part.bias is None for part in maps)
    special = active[0] in layer.lora_variant and not _is_dora(layer, active[0])
    return plain and not special and not _hooked(*maps)


def _is_dora(layer: Any, name: str) -> bool:
    """Whether the layer is DoRA's, alone."""
    from peft.tuners.lora.dora import DoraLinearLayer

    vectors = layer.lora_magnitude_vector
    return name in vectors and type(vectors[name]) is DoraLinearLayer


def _fused_forward(layer: Any) -> Callable[..., Tensor]:
    """The layer's function at its present rank and scale.

    DoRA (arXiv 2402.09353) is LoRA's output times one number per output, magnitude / norm, before
    the bias; the norms of ``W + s B A`` are computed here, once, as PEFT does in each pass.
    """
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    name = next((name for name in layer.active_adapters if name in layer.lora_A), None)
    original = layer.forward
    if layer.disable_adapters or name is None:
        return layer.base_layer.forward
    down = layer.lora_A[name].weight.to(weight.dtype)
    up = layer.lora_B[name].weight.to(weight.dtype).t().contiguous()
    scale = float(layer.scaling[name])
    factor = _dora_factor(layer, name) if _is_dora(layer, name) else None

    def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if args or kwargs or x.dtype != weight.dtype:
            return original(x, *args, **kwargs)
        out = functional.linear(x, weight, bias if factor is None else None)
        low = functional.linear(x, down).view(-1, down.shape[0])
        out.view(-1, out.shape[-1]).addmm_(low, up, alpha=scale)
        if factor is not None:
            out.mul_(factor)  # in the factor's own type, rounded once
            if bias is not None:
                out.add_(bias)
        return out

    return forward


def _dora_factor(layer: Any, name: str) -> Tensor:
    """DoRA's magnitude / norm of each output at the present rank, (out,), in the adapter's type."""
    dora = layer.lora_magnitude_vector[name]
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    norm = dora.get_weight_norm(
        layer.base_layer.weight.to(down.dtype), up @ down, layer.scaling[name]
    )
    return dora.weight / norm


@contextlib.contextmanager
def fused_adapters(model: Any) -> Iterator[None]:
    """Compute the model's LoRA layers fused; undone on leaving.

    The factors are read on entering, so a change of rank needs a new context. Enter it in inference
    mode: the sum is made in place.
    """
    peft = sys.modules.get("peft")
    if peft is None:
        yield
        return
    from peft.tuners.lora import Linear

    changed = []
    try:
        for layer in model.modules():
            if type(layer) is Linear and "forward" not in vars(layer) and _plain(layer):
                layer.forward = _fused_forward(layer)
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward
