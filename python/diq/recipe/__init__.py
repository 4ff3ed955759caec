"""Recipes: a whole pipeline in one YAML file, checked before anything runs, each step skipped when it is done.

A recipe calls the stages with the arguments that a user would give them; it holds no method of its own. docs/recipes.md
has the format.
"""

from diq.recipe.reading import Problem as Problem
from diq.recipe.reading import Recipe as Recipe
from diq.recipe.reading import Step as Step
from diq.recipe.running import Listener as Listener
from diq.recipe.running import RecipeSummary as RecipeSummary
from diq.recipe.running import StepReport as StepReport
from diq.recipe.running import load as load
from diq.recipe.running import run as run
from diq.recipe.running import shipped as shipped
from diq.recipe.running import text_of as text_of
