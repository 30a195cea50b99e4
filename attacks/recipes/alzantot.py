"""The genetic attack of Alzantot et al.

Alzantot, Sharma, Elgohary, Ho, Srivastava, Chang. Generating Natural Language Adversarial
Examples. EMNLP 2018. https://arxiv.org/abs/1804.07998

A population of texts evolves: each differs from the original in words replaced by neighbours in
the counter-fitted vectors, of which those are tried that a language model finds most likely beside
the words around; parents are drawn by how little the true class is left with.

As in TextAttack 0.3.11 (``GeneticAlgorithmAlzantot2018``) but for:

* Neighbours are the published list's, up to 8 as in the paper; the list leaves out what is not
  near enough, which stands for the bound on the distance.
* The language model is the one that the result names, for the paper's (of the Billion Word corpus)
  is a download. As the paper's it sees one word on each side; TextAttack shows it the one before.
* Children of two texts keep the share of words that may change, too; the authors drop such texts
  at the end, TextAttack does not.
* Parents are drawn as in the paper; TextAttack draws the worst most (see ``population_search``).
* The stopwords are those of the corpus that the result names.
* Of a pair the columns that ``modify`` names change, whatever they are called.

Without ``max_queries`` a text that holds may cost ten thousand queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class AlzantotConfig(RecipeConfig):
    """Settings of the attack; the defaults are the paper's."""

    population: PositiveInt = 60
    iterations: PositiveInt = 20
    max_candidates: Annotated[int, Field(ge=1, le=8)] = 8  # neighbours of a word; 8 are listed
    max_fluent: PositiveInt = 4  # of these, the most likely ones
    window: PositiveInt = 1  # words on each side that the language model sees
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of the words


class Alzantot(TextAttackRecipe[AlzantotConfig]):
    """A genetic search over near words that fit their neighbours."""

    name = "alzantot"
    paper = "Alzantot et al. 2018, https://arxiv.org/abs/1804.07998"
    edits = (
        "one listed neighbour a word, of the max_fluent most likely ones, in max_changed of the "
        "words, no stopwords"
    )
    deviation = "SmolLM2-135M in place of the Billion Word language model"
    needs = ("stopwords", "counterfitted-neighbors", "language-model")
    config_class = AlzantotConfig

    def parts(self) -> Parts:
        """Likely listed neighbours, genetic search."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.fluency import MostFluent
        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.population_search import GeneticSearch

        config = self.config
        return Parts(
            NeighborSwap(self._found("counterfitted-neighbors"), config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=config.max_changed),
                MostFluent(self._found("language-model"), config.max_fluent, config.window),
            ],
            GeneticSearch(config.population, config.iterations),
        )
