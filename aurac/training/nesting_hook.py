"""Nested training on plain PEFT: a diagonal between the LoRA factors.

PEFT computes `lora_B(lora_A(x)) * s_R`. A forward hook on `lora_A` multiplies its output (…, R) by
p / s_R, so that the layer computes `B · diag(p) · A · x`. Methods differ only in the p of their
passes (`aurac.adapters.methods`). Nothing of this is saved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from aurac.adapters.methods import Pass
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
            raise RecipeError(f"{name} is an embedding: leave it out of target_modules.")


class NestingHook:
    """Keeps p between the factors of every layer of one adapter of a live PEFT model.

    The recipe's method decides the passes of a step.
    """

    def __init__(self, model: Any, recipe: Recipe, adapter_name: str = "default") -> None:
        self.recipe = recipe
        self.passes: Sequence[Pass] = ()
        self._current: Pass | None = None
        self._silent: set[str] = set()
        self._handles: list[Any] = []
        self._p: dict[Any, torch.Tensor] = {}
        for name, layer in lora_linears(model, adapter_name):
            self._silent.add(name)
            lora_a, lora_b = layer.lora_A[adapter_name], layer.lora_B[adapter_name]
            hook = self._multiply(name, self._beside(lora_a.weight))
            self._handles.append(lora_a.register_forward_hook(hook))
            for dim, weight in enumerate((lora_a.weight, lora_b.weight)):
                if weight.requires_grad:
                    self._handles.append(weight.register_hook(self._only_rows(dim)))
        for module in recipe.target_modules:
            if not any(f".{name}".endswith(f".{module}") for name in self._silent):
                logger.warning("no layer of the base is named like %s: it gets no adapter", module)
        self.set_step(0)

    def _beside(self, weight: torch.Tensor) -> torch.Tensor:
        """The p (R,) for layers with such a weight: on its device, in fp32 or better."""
        key = weight.device, torch.promote_types(weight.dtype, torch.float32)
        if key not in self._p:
            self._p[key] = torch.ones(self.recipe.rank, device=key[0], dtype=key[1])
        return self._p[key]

    def _multiply(self, name: str, p: torch.Tensor) -> Callable[..., torch.Tensor]:
        s_R = scale(self.recipe.scaling, self.recipe.alpha, self.recipe.rank)

        def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            self._silent.discard(name)
            return (output * (p / s_R).to(output.device)).to(output.dtype)

        return hook

    def _only_rows(self, dim: int) -> Callable[[torch.Tensor], torch.Tensor | None]:
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
        """Ask the method for the passes of an optimizer step, counted from 0; use the first."""
        self.passes = self.recipe.passes(step)
        self.use(self.passes[0])

    def use(self, chosen: Pass) -> None:
        """Put a pass's p (R,) between the factors of every layer."""
        if chosen is self._current:
            return
        self._current = chosen
        for p in self._p.values():
            p.copy_(torch.from_numpy(chosen.p))

    def check_fired(self) -> None:
        """Raise RecipeError if a layer never went through the hook: its P would be missing."""
        if self._silent:
            raise RecipeError(
                f"The layer {min(self._silent)} and {len(self._silent) - 1} others never called "
                "their lora_A: leave them out of target_modules."
            )

    def remove(self) -> None:
        """Take everything off; the model is plain PEFT again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
