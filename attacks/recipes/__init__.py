"""The attacks by name, one paper a file."""

from __future__ import annotations

from typing import Any

from attacks.base import Recipe
from attacks.recipes.a2t import A2T
from attacks.recipes.alzantot import Alzantot
from attacks.recipes.bad_characters import BadCharacters
from attacks.recipes.bae import BAE
from attacks.recipes.bert_attack import BERTAttack
from attacks.recipes.checklist import Checklist
from attacks.recipes.clare import CLARE
from attacks.recipes.deepwordbug import DeepWordBug
from attacks.recipes.faster_alzantot import FasterAlzantot
from attacks.recipes.gradient_substitution import GradientSubstitution
from attacks.recipes.greedy_substitution import GreedySubstitution
from attacks.recipes.hotflip import HotFlip
from attacks.recipes.iga import IGA
from attacks.recipes.input_reduction import InputReduction
from attacks.recipes.kuleshov import Kuleshov
from attacks.recipes.leap import LEAP
from attacks.recipes.morpheus import Morpheus
from attacks.recipes.paraphrase import Paraphrase
from attacks.recipes.pruthi import Pruthi
from attacks.recipes.pso import PSO
from attacks.recipes.pwws import PWWS
from attacks.recipes.random_substitution import RandomSubstitution
from attacks.recipes.textbugger import TextBugger
from attacks.recipes.textfooler import TextFooler
from attacks.recipes.universal_triggers import UniversalTriggers
from attacks.recipes.viper import Viper

RECIPES: dict[str, type[Recipe[Any]]] = {
    recipe.name: recipe
    for recipe in (
        A2T,
        Alzantot,
        BadCharacters,
        BAE,
        BERTAttack,
        Checklist,
        CLARE,
        DeepWordBug,
        FasterAlzantot,
        GradientSubstitution,
        GreedySubstitution,
        HotFlip,
        IGA,
        InputReduction,
        Kuleshov,
        LEAP,
        Morpheus,
        Paraphrase,
        Pruthi,
        PSO,
        PWWS,
        RandomSubstitution,
        TextBugger,
        TextFooler,
        UniversalTriggers,
        Viper,
    )
}
