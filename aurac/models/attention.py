"""An attention function of our own in a transformers model, which looks it up by name."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from aurac.models.device import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Of `difference`. Seen on the packaged base (30 layers, bf16): rounding alone puts two passes up to
# 0.16 apart; a missing mask gives 1.0 to 1.7, a sequence that sees another one or positions off by
# one 0.3 and more.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2.2e-1}
_UNSUPPORTED = ("s_aux", "position_bias", "head_mask", "alibi", "block_indices")


class UnsupportedAttentionError(Exception):
    """The model asks its attention for something that the function does not do."""


def tolerance(model: Any) -> float:
    """The greatest `difference` between a model's own logits and packed ones."""
    return _TOLERANCE.get(next(iter(model.parameters())).dtype, 0.1)


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance between logits (n, V), relative to the spread of the expected ones."""
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm()
    return float((logits.float() - expected).norm() / spread)


def refuse_unsupported(mask: Any, dropout: float, arguments: Mapping[str, Any]) -> None:
    """Refuse a mask, dropout, and the sinks and biases among a layer's further arguments."""
    names = [name for name in _UNSUPPORTED if arguments.get(name) is not None]
    if mask is not None or dropout or names:
        raise UnsupportedAttentionError(f"attention with {names or 'a mask or dropout'}")


@contextlib.contextmanager
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
