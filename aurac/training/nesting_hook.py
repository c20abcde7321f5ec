"""Nested training on plain PEFT: a fixed diagonal P between the LoRA factors.

PEFT computes `lora_B(lora_A(x)) * s_R`. A forward hook on each `lora_A` multiplies its output
(…, R) by p / s_R, which makes the layer compute `B · P · A · x` at the cost of one vector product
(MatryoshkaLoRA, arXiv 2605.07850; the sum over nested ranks in the efficient form). LoRA, DyLoRA
and MatryoshkaLoRA differ only in p. Nothing of the hook is saved: checkpoints stay plain PEFT.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.adapters.nesting import rank_weights, scale
from aurac.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from aurac.training.recipe import Recipe

_BUFFER = "aurac_rank_weights"


def drawn_rank(recipe: Recipe, step: int) -> int:
    """DyLoRA's b for optimizer step `step` (0-based).

    A pure function of (seed, step): the same on every data-parallel process, in every micro-batch
    and in a gradient-checkpoint recompute, and unchanged when a run is resumed.
    """
    chances = np.asarray(recipe.dylora_probabilities or [1.0] * len(recipe.ranks))
    edges = np.cumsum(chances / chances.sum())
    digest = hashlib.sha256(f"dylora {recipe.seed} {step}".encode()).digest()
    uniform = int.from_bytes(digest[:7], "big") / 2**56
    return recipe.ranks[min(int(np.searchsorted(edges, uniform, side="right")), len(edges) - 1)]


def training_weights(recipe: Recipe, step: int) -> NDArray[np.float64]:
    """The rank weights p of the recipe at an optimizer step, shape (R,)."""
    if recipe.method == "dylora":
        ranks: tuple[int, ...] = (drawn_rank(recipe, step),)
        weights: tuple[float, ...] = (1.0,)
    else:
        ranks = recipe.ranks
        weights = (
            (recipe.rank_weights or (1.0,) * len(ranks))
            if recipe.method == "matryoshka"
            else (1.0,)
        )
    return rank_weights(recipe.rank, ranks, weights, recipe.scaling, recipe.alpha)


def lora_linears(model: Any, adapter_name: str = "default") -> Iterator[tuple[str, Any]]:
    """(module path, PEFT layer) of every layer that carries the adapter."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter_name in module.lora_A:
            yield name, module


class NestingHook:
    """Keeps p / s_R between the factors of every layer of one adapter of a live PEFT model.

    Args:
        model: A PEFT model with the adapter in it.
        recipe: Its method, ranks, weights and scaling decide p.
        adapter_name: PEFT's name of the adapter.

    Raises:
        RecipeError: The model has no layer with that adapter.
    """

    def __init__(self, model: Any, recipe: Recipe, adapter_name: str = "default") -> None:
        import torch

        self.recipe = recipe
        self.fired: set[str] = set()
        self._step = -1
        self._layers: list[tuple[str, Any]] = []
        self._handles: list[Any] = []
        self._drawn = recipe.rank
        for name, layer in lora_linears(model, adapter_name):
            lora_a, lora_b = layer.lora_A[adapter_name], layer.lora_B[adapter_name]
            self._layers.append((name, lora_a))
            ones = torch.ones(recipe.rank, dtype=lora_a.weight.dtype, device=lora_a.weight.device)
            lora_a.register_buffer(_BUFFER, ones, persistent=False)
            self._handles.append(lora_a.register_forward_hook(self._multiply(name)))
            if recipe.method == "dylora" and recipe.dylora_update == "frozen":
                self._handles.append(lora_a.weight.register_hook(self._only_drawn(dim=0)))
                self._handles.append(lora_b.weight.register_hook(self._only_drawn(dim=1)))
        if not self._layers:
            raise RecipeError(
                f"no layer of the base is named like {list(recipe.target_modules)}",
                expected="names of its linear layers",
                fix="correct target_modules",
            )
        self.set_step(0)

    def _multiply(self, name: str) -> Any:
        def hook(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
            self.fired.add(name)
            return output * getattr(module, _BUFFER)

        return hook

    def _only_drawn(self, dim: int) -> Any:
        """Gradient of row (A) or column (B) b alone; the others are held (DyLoRA's own update)."""

        def hook(gradient: torch.Tensor) -> torch.Tensor:
            kept = gradient.new_zeros(gradient.shape)
            index = [slice(None), slice(None)]
            index[dim] = slice(self._drawn - 1, self._drawn)
            kept[tuple(index)] = gradient[tuple(index)]
            return kept

        return hook

    def set_step(self, step: int) -> None:
        """Set p for optimizer step `step` (0-based); does nothing where p does not change."""
        if self._step >= 0 and self.recipe.method != "dylora":
            return
        self._step = step
        if self.recipe.method == "dylora":
            self._drawn = drawn_rank(self.recipe, step)
        self.set_weights(training_weights(self.recipe, step))

    def set_weights(self, p: NDArray[np.float64]) -> None:
        """Put p (R,) into every layer, divided by the s_R that PEFT multiplies with."""
        import torch

        ratio = torch.from_numpy(
            p / scale(self.recipe.scaling, self.recipe.alpha, self.recipe.rank)
        )
        for _, lora_a in self._layers:
            getattr(lora_a, _BUFFER).copy_(ratio)

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
        """Take hooks and buffers off; the model is plain PEFT again."""
        for handle in self._handles:
            handle.remove()
        for _, lora_a in self._layers:
            delattr(lora_a, _BUFFER)
        self._handles, self._layers = [], []
