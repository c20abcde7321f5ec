"""A model's LoRA layers in fewer operations.

PEFT's linear layer computes ``base(x) + B(A(x)) * scaling``. In evaluation that is one matrix
product and a second, low-rank one that scales and adds into its result: three operations instead of
up to ten. On a 16-bit base PEFT holds the factors in float32 and casts every activation to it and
back; here the products are in the base's type with float32 accumulation, and the sum is rounded
once. Layers of any other kind are left as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


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


class _Down:
    """The products with the low-rank factors A of layers that read the same input, as one.

    The first of the layers computes them all; the last one lets go of them.
    """

    def __init__(self, layers: Sequence[tuple[Any, str]]) -> None:
        factors = [
            layer.lora_A[name].weight.to(layer.base_layer.weight.dtype) for layer, name in layers
        ]
        self._weight, self._ranks = torch.cat(factors), [len(factor) for factor in factors]
        self._input: Tensor | None = None
        self._parts: Sequence[Tensor] = ()

    def __call__(self, x: Tensor, number: int) -> Tensor:
        """(.., r) for the layer of this number."""
        if x is not self._input:
            low = functional.linear(x, self._weight)
            self._input, self._parts = x, low.split(self._ranks, dim=-1)
        part = self._parts[number]
        if number == len(self._ranks) - 1:
            self._input, self._parts = None, ()
        return part


def _fused_forward(layer: Any, name: str, down: _Down, number: int) -> Callable[..., Tensor]:
    """The layer's forward function at its present rank and scale.

    DoRA (arXiv 2402.09353) is LoRA's output times one number per output, magnitude / norm, before
    the bias; the norms of ``W + s B A`` are computed here, once, as PEFT does in each pass.
    """
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    original = layer.forward
    up = layer.lora_B[name].weight.to(weight.dtype).t().contiguous()
    scale = float(layer.scaling[name])
    factor = _dora_factor(layer, name) if _is_dora(layer, name) else None

    def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if args or kwargs or x.dtype != weight.dtype:
            return original(x, *args, **kwargs)
        out = functional.linear(x, weight, bias if factor is None else None)
        out.view(-1, out.shape[-1]).addmm_(down(x, number).flatten(0, -2), up, alpha=scale)
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


_SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # if it is


def _fused_adapters(model: Any) -> Iterator[tuple[Any, Callable[..., Tensor]]]:
    """The model's LoRA layers, each with the forward function that replaces its own."""
    from peft.tuners.lora import Linear

    for parent in model.modules():
        layers = {}
        for name, layer in parent.named_children():
            if type(layer) is Linear and "forward" not in vars(layer) and _plain(layer):
                active = [a for a in layer.active_adapters if a in layer.lora_A]
                if layer.disable_adapters or not active:
                    yield layer, layer.base_layer.forward
                else:
                    layers[name] = layer, active[0]
        for _, names in groupby(layers, key=lambda name: _SAME_INPUT.get(name, name)):
            together = [layers[name] for name in names]
            down = _Down(together)
            for number, (layer, active) in enumerate(together):
                yield layer, _fused_forward(layer, active, down, number)


@contextlib.contextmanager
def fewer_operations(model: Any) -> Iterator[None]:
    """Compute LoRA layers in fewer operations; undone on leaving.

    The factors are read on entering, so a change of rank needs a new context. Enter it in inference
    mode: LoRA's sum is made in place.
    """
    changed = []
    try:
        for layer, function in _fused_adapters(model):
            layer.forward = function
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward
