"""Runs a recipe: stages in order, what is done already kept, a gate after each, a report at the end."""

from hanlin.pipeline.run import RECIPE_FILE, run_recipe
from hanlin.recipe.recipe import Recipe, load_recipe, recipe_names

__all__ = ["RECIPE_FILE", "Recipe", "load_recipe", "recipe_names", "run_recipe"]
