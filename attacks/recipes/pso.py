"""Particle swarm optimisation (PSO) over synonyms.

Zang, Qi, Yang, Liu, Zhang, Liu, Sun. Word-level Textual Adversarial Attacking as Combinatorial
Optimization. ACL 2020. https://aclanthology.org/2020.acl-main.540/

A swarm of texts moves: each is drawn, word by word, towards the best text it has been and the best
of all, and mutates the less the more it differs from the original.

As in TextAttack 0.3.11 (``PSOZang2020``) but for:

* Substitutes are WordNet synonyms, for those of the paper, words with the same sememes in HowNet,
  are a download; no package holds them. This is the larger part of the paper: what is left is its
  search. ``leap`` searches among WordNet synonyms by design.
* A particle is drawn towards the elite, as in the paper (see ``population_search``).
* Synonyms and stopwords are those of the corpora that the result names.
* Of a pair the columns that ``modify`` names change, whatever they are called.

Without ``max_queries`` a text that holds may cost tens of thousands of queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class PSOConfig(RecipeConfig):
    """Settings of PSO; the defaults are the paper's."""

    population: PositiveInt = 60
    iterations: PositiveInt = 20


class PSO(TextAttackRecipe[PSOConfig]):
    """A particle swarm over synonyms."""

    name = "pso"
    paper = "Zang et al. 2020, https://aclanthology.org/2020.acl-main.540/"
    edits = "one WordNet synonym a word, no stopwords"
    deviation = "WordNet synonyms in place of words with the same sememes in HowNet"
    needs = ("stopwords", "wordnet")
    config_class = PSOConfig

    def parts(self) -> Parts:
        """All WordNet synonyms of a word, particle swarm."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.population_search import SwarmSearch
        from attacks.parts.wordnet_swap import WordNetSwap

        return Parts(
            WordNetSwap(self._found("wordnet")),
            [RepeatModification(), StopwordModification(self._stopwords())],
            SwarmSearch(self.config.population, self.config.iterations),
        )
