"""The attacks by name, one paper a file."""

from __future__ import annotations

from typing import Any

from attacks.base import Recipe
from attacks.recipes.deepwordbug import DeepWordBug
from attacks.recipes.pwws import PWWS

RECIPES: dict[str, type[Recipe[Any]]] = {recipe.name: recipe for recipe in (DeepWordBug, PWWS)}
