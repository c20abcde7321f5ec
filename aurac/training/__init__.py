"""Training: recipes (data) become adapters, on plain PEFT and the HF Trainer."""

from __future__ import annotations

from aurac.training.recipe import Recipe, built_in_recipes, load_recipe, make_recipe

__all__ = ["Recipe", "built_in_recipes", "load_recipe", "make_recipe"]
