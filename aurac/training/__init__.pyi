from .job import TrainingResult, train
from .recipe import Recipe, built_in_recipes, load_recipe, make_recipe

__all__ = [
    "Recipe",
    "TrainingResult",
    "built_in_recipes",
    "load_recipe",
    "make_recipe",
    "train",
]
