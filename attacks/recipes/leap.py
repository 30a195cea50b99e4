"""LEAP: a particle swarm with Levy flights.

Xiao, Xiao, Dong, Ji, Zhang. LEAP: Efficient and Automated Test Method for NLP Software. ASE 2023.
https://arxiv.org/abs/2308.11284

The particle swarm of ``pso`` over WordNet synonyms; the speeds a swarm starts with are drawn from
a Levy distribution, each particle has an inertia that depends on how good it is, and the mutation
takes the best synonym there is.

As in TextAttack 0.3.11 (``LEAP2023``) but for:

* The share of words that may change holds for every text; TextAttack checks it before a word is
  swapped, not after a particle has moved.
* A particle is drawn towards the elite, as in the paper on the swarm (see ``population_search``).
* Synonyms and stopwords are those of the corpora that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

Without ``max_queries`` a text that holds may cost tens of thousands of queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class LEAPConfig(RecipeConfig):
    """Settings of LEAP; the defaults are TextAttack's after the paper."""

    population: PositiveInt = 60
    iterations: PositiveInt = 20
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.16  # share of the words; for AG News


class LEAP(TextAttackRecipe[LEAPConfig]):
    """A particle swarm with Levy flights over synonyms."""

    name = "leap"
    paper = "Xiao et al. 2023, https://arxiv.org/abs/2308.11284"
    edits = "WordNet synonyms in max_changed of the words, no stopwords"
    deviation = "max_changed bounds every text; particles turn towards the elite, as in PSO's paper"
    needs = ("stopwords", "wordnet")
    config_class = LEAPConfig

    def parts(self) -> Parts:
        """All WordNet synonyms of a word, particle swarm with Levy flights."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import StopwordModification

        from attacks.parts.population_search import LevySwarmSearch
        from attacks.parts.wordnet_swap import WordNetSwap

        return Parts(
            WordNetSwap(self._found("wordnet")),
            [
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=self.config.max_changed),
            ],
            LevySwarmSearch(self.config.population, self.config.iterations),
        )
