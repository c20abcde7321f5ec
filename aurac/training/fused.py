"""LoRA's linear layer in training as four matrix products, with a backward of its own.

PEFT computes `W x + s · B (A x)` in up to ten operations, each of which autograd records and
reverses. With the diagonal p between the factors, x (T, in), h = A x (T, R) and g the gradient of
the output (T, out):

    y  = x Wᵀ + (h ∘ p) Bᵀ
    gx = g W + (g B ∘ p) A,   gA = (g B ∘ p)ᵀ x,   gB = gᵀ (h ∘ p)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        p: torch.Tensor,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = _times(rows @ a.T, p)
        out = functional.linear(rows, weight, bias).addmm_(inner, b.T)
        ctx.save_for_backward(rows, inner, weight, a, b, p)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows, inner, weight, a, b, p = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        of_inner = _times(g @ b, p)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (g @ weight).addmm_(of_inner, a).view(*gradient.shape[:-1], -1)
        return of_x, None, None, of_inner.T @ rows, g.T @ inner, None


def _times(inner: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """(T, R) times p (R,) in fp32, rounded once."""
    return (inner * p).to(inner.dtype)


def fusible(layer: Any, name: str) -> bool:
    """Whether the adapter `name` of a PEFT layer is two plain maps beside a frozen linear one."""
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear:
        return False
    modules = (layer, layer.base_layer, layer.lora_A[name], layer.lora_B[name])
    dropout = layer.lora_dropout[name]
    return (
        all(type(module) is torch.nn.Linear for module in modules[1:])
        and not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        and not any(parameter.requires_grad for parameter in layer.base_layer.parameters())
        and modules[2].bias is None
        and modules[3].bias is None
        and list(layer.lora_A) == [name]
        and name not in layer.lora_variant
        and (isinstance(dropout, torch.nn.Identity) or dropout.p == 0)
        and layer.base_layer.weight.dtype == modules[2].weight.dtype == modules[3].weight.dtype
    )


def fused_forward(
    layer: Any, name: str, p: torch.Tensor, called: Callable[[], None]
) -> Callable[..., torch.Tensor]:
    """The forward of a fusible layer.

    Args:
        layer: PEFT's layer.
        name: Of the adapter.
        p: (R,) fp32, the diagonal between the factors; read at each call.
        called: Called at each forward.
    """
    base, down, up = layer.base_layer, layer.lora_A[name], layer.lora_B[name]

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        called()
        # The weights are looked up at each call: sharding a model replaces them.
        result: torch.Tensor = _LowRankLinear.apply(
            x, base.weight, base.bias, down.weight, up.weight, p
        )
        return result

    return forward
