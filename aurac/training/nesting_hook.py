"""Nested training on plain PEFT: a diagonal between the LoRA factors.

PEFT computes `lora_B(lora_A(x)) * s_R`. An ordinary linear layer gets a fused forward that has
`B · diag(p) · A · x` instead; on any other layer a forward hook on `lora_A` multiplies its output
(…, R) by p / s_R, which comes to the same. Methods differ only in the p of their passes
(`aurac.adapters.methods`). Nothing of this is saved.

The fused forward is four matrix products with a backward of its own, where PEFT has up to ten
operations that autograd records. With x (T, in), h = A x (T, R) and the gradient g of the output
(T, out):

    y  = x Wᵀ + (h ∘ p) Bᵀ
    gx = g W + (g B ∘ p) A,   gA = (g B ∘ p)ᵀ x,   gB = gᵀ (h ∘ p)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from aurac.adapters.methods import Pass, check_passes
from aurac.adapters.nesting import scale
from aurac.errors import RecipeError
from aurac.training.recipe import Recipe

logger = logging.getLogger(__name__)


def lora_linears(model: Any, adapter_name: str = "default") -> Iterator[tuple[str, Any]]:
    """(module path, PEFT layer) of every layer that carries the adapter; no embedding may."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter_name in module.lora_A:
            yield name, module
        elif isinstance(module, LoraLayer) and adapter_name in module.lora_embedding_A:
            raise RecipeError(
                f"{name} is an embedding",
                expected="layers whose adapter is two linear maps",
                fix="leave embeddings out of target_modules",
            )


class NestingHook:
    """Keeps p between the factors of every layer of one adapter of a live PEFT model.

    The recipe's method decides the passes of a step. A model without a layer that carries the
    adapter is refused.
    """

    def __init__(self, model: Any, recipe: Recipe, adapter_name: str = "default") -> None:
        self.recipe = recipe
        self.fired: set[str] = set()
        self.passes: Sequence[Pass] = ()
        self._current: Pass | None = None
        self._layers: list[tuple[str, Any]] = []
        self._fused: list[Any] = []
        self._handles: list[Any] = []
        self._p: dict[Any, torch.Tensor] = {}
        for name, layer in lora_linears(model, adapter_name):
            self._layers.append((name, layer))
            lora_a, lora_b = layer.lora_A[adapter_name], layer.lora_B[adapter_name]
            p = self._beside(lora_a.weight)
            if fusible(layer, adapter_name):
                called = partial(self.fired.add, name)
                layer.forward = fused_forward(layer, adapter_name, p, called)
                self._fused.append(layer)
            else:
                self._handles.append(lora_a.register_forward_hook(self._multiply(name, p)))
            for dim, weight in enumerate((lora_a.weight, lora_b.weight)):
                if weight.requires_grad:
                    self._handles.append(weight.register_hook(self._only_rows(dim)))
        if not self._layers:
            raise RecipeError(
                f"no layer of the base is named like {list(recipe.target_modules)}",
                expected="names of its linear layers",
                fix="correct target_modules",
            )
        layers = [f".{name}" for name, _ in self._layers]
        asked = recipe.target_modules
        if unused := [name for name in asked if not any(x.endswith(f".{name}") for x in layers)]:
            logger.warning(
                "no layer of the base is named like %s: it gets no adapter", ", ".join(unused)
            )
        self.set_step(0)

    def _beside(self, weight: torch.Tensor) -> torch.Tensor:
        """The p (R,) for layers with such a weight: on its device, in fp32 or better."""
        key = weight.device, torch.promote_types(weight.dtype, torch.float32)
        if key not in self._p:
            self._p[key] = torch.ones(self.recipe.rank, device=key[0], dtype=key[1])
        return self._p[key]

    def _multiply(self, name: str, p: torch.Tensor) -> Any:
        s_R = scale(self.recipe.scaling, self.recipe.alpha, self.recipe.rank)

        def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            self.fired.add(name)
            return (output * (p / s_R).to(output.device)).to(output.dtype)

        return hook

    def _only_rows(self, dim: int) -> Any:
        """Keep the gradient of the pass's rows of A (columns of B); the others are held."""

        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            if self._current is None or self._current.rows == slice(None):
                return None
            kept = gradient.new_zeros(gradient.shape)
            index = (slice(None),) * dim + (self._current.rows,)
            kept[index] = gradient[index]
            return kept

        return hook

    def set_step(self, step: int) -> None:
        """Ask the method for the passes of an optimizer step, counted from 0; use the first.

        Raises:
            RecipeError: A method of a package gave some that cannot be trained.
        """
        self.passes = self.recipe.passes(step)
        check_passes(self.recipe.method, self.passes, self.recipe.rank)
        self.use(self.passes[0])

    def use(self, chosen: Pass) -> None:
        """Put a pass's p (R,) between the factors of every layer."""
        if chosen is self._current:
            return
        self._current = chosen
        for p in self._p.values():
            p.copy_(torch.from_numpy(chosen.p))

    def check_fired(self) -> None:
        """Raise RecipeError if a layer never went through the hook (its P would be missing)."""
        silent = [name for name, _ in self._layers if name not in self.fired]
        if silent:
            raise RecipeError(
                f"the layer {silent[0]!r} never called its lora_A ({len(silent)} such layers)",
                expected="layers whose adapter is two linear maps",
                fix="leave embeddings and unused layers out of target_modules",
            )

    def remove(self) -> None:
        """Take everything off; the model is plain PEFT again."""
        for handle in self._handles:
            handle.remove()
        for layer in self._fused:
            del layer.forward
        self._handles, self._fused, self._layers = [], [], []


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
    """The forward of a fusible layer; p (R,) fp32 is read, and ``called`` called, at each call."""
    base, down, up = layer.base_layer, layer.lora_A[name], layer.lora_B[name]

    def forward(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        called()
        # The weights are looked up at each call: sharding a model replaces them.
        weights = base.weight, base.bias, down.weight, up.weight
        return _LowRankLinear.apply(x, *weights, p.to(x.device))

    return forward
