"""Training: recipes (data) become adapters, on plain PEFT and the HF Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.training.recipe import Recipe, built_in_recipes, load_recipe, make_recipe

if TYPE_CHECKING:
    from aurac.training.job import TrainingResult, train

__all__ = [
    "Recipe",
    "TrainingResult",
    "built_in_recipes",
    "load_recipe",
    "make_recipe",
    "train",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """`train` and its result, imported when first asked for: they load transformers."""
        if name not in ("TrainingResult", "train"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from aurac.training import job

        return getattr(job, name)
