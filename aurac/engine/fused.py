"""LoRA layers computed in three operations instead of up to ten, without merging.

PEFT's linear layer computes ``base(x) + B(A(x)) * scaling``. In evaluation that is one matrix
product and a second, low-rank one that scales and adds into its result. On a 16-bit base PEFT
holds the factors in float32 and casts every activation to it and back; here the products are in
the base's type with float32 accumulation, and the sum is rounded once. Layers of any other kind
are left as they are.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    name = active[0]
    down, up = layer.lora_A[name], layer.lora_B[name]
    linear = type(down) is torch.nn.Linear and type(up) is torch.nn.Linear
    simple = linear and down.bias is None and up.bias is None
    special = name in layer.lora_variant or (name in getattr(layer, "lora_magnitude_vector", ()))
    return simple and not special and not _hooked(down, up)


def _fused_forward(layer: Any) -> Callable[..., torch.Tensor]:
    """The layer's function at its present rank and scale."""
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    original = layer.forward
    if layer.disable_adapters or not names:
        return layer.base_layer.forward
    down = layer.lora_A[names[0]].weight.to(weight.dtype)
    up = layer.lora_B[names[0]].weight.to(weight.dtype).t().contiguous()
    scale = float(layer.scaling[names[0]])

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or x.dtype != weight.dtype:
            result: torch.Tensor = original(x, *args, **kwargs)
            return result
        out = functional.linear(x, weight, bias)
        low = functional.linear(x, down).view(-1, down.shape[0])
        out.view(-1, out.shape[-1]).addmm_(low, up, alpha=scale)
        return out

    return forward


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
