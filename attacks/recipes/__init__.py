"""The attacks by name, one paper a file."""

from __future__ import annotations

from typing import Any

from attacks.base import Recipe
from attacks.recipes.deepwordbug import DeepWordBug
from attacks.recipes.greedy_substitution import GreedySubstitution
from attacks.recipes.pruthi import Pruthi
from attacks.recipes.pwws import PWWS
from attacks.recipes.random_substitution import RandomSubstitution
from attacks.recipes.textbugger import TextBugger
from attacks.recipes.textfooler import TextFooler

RECIPES: dict[str, type[Recipe[Any]]] = {
    recipe.name: recipe
    for recipe in (
        DeepWordBug,
        GreedySubstitution,
        Pruthi,
        PWWS,
        RandomSubstitution,
        TextBugger,
        TextFooler,
    )
}
