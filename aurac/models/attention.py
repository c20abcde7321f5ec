"""An attention function of our own in a transformers model, which looks it up by name."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from aurac.models.device import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_UNSUPPORTED = ("s_aux", "position_bias", "head_mask", "alibi", "block_indices")


class UnsupportedAttentionError(Exception):
    """The model asks its attention for something that the function does not do."""


def refuse_unsupported(mask: Any, dropout: float, asked: Mapping[str, Any]) -> None:
    """Refuse a mask, dropout, sinks and biases.

    Args:
        mask: The attention mask that a layer passes; the functions here have their own.
        dropout: Of the attention weights.
        asked: The other keyword arguments of the layer.

    Raises:
        UnsupportedAttentionError: There is one of these.
    """
    names = [name for name in _UNSUPPORTED if asked.get(name) is not None]
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
