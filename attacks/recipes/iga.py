"""The improved genetic attack (IGA).

Wang, Jin, He. Natural Language Adversarial Attacks and Defenses in Word Level. 2019.
https://arxiv.org/abs/1909.06723v1

A population of texts evolves: each differs from the original in words replaced by neighbours in
the counter-fitted vectors, stopwords spared. The first generation has, for each word, the text with
that word's worst neighbour; two parents are cut at one place and joined; a word may be replaced
again, by a neighbour of its neighbour.

As in TextAttack 0.3.11 (``IGAWang2019``) but for:

* A word has up to 8 neighbours, those of the published list, where the paper takes all within the
  bound on the distance; the list keeps to such a bound as well.
* Parents are drawn by fitness; TextAttack draws the worst most (see ``population_search``).
  Children keep the share of words that may change, too, which TextAttack does not check.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

Without ``max_queries`` a text that holds may cost ten thousand queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class IGAConfig(RecipeConfig):
    """Settings of IGA; the defaults are TextAttack's after the paper."""

    population: PositiveInt = 60
    iterations: PositiveInt = 20
    max_replacements: PositiveInt = 5  # of one word, one after another
    max_candidates: Annotated[int, Field(ge=1, le=8)] = 8  # neighbours of a word; 8 are listed
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of the words


class IGA(TextAttackRecipe[IGAConfig]):
    """A genetic search over near words and the near words of these."""

    name = "iga"
    paper = "Wang et al. 2019, https://arxiv.org/abs/1909.06723v1"
    edits = (
        "listed neighbours in max_changed of the words, max_replacements one after another, no "
        "stopwords"
    )
    deviation = "up to 8 listed neighbours of a word in place of all within a distance"
    needs = ("stopwords", "counterfitted-neighbors")
    config_class = IGAConfig

    def parts(self) -> Parts:
        """Listed neighbours, improved genetic search."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import StopwordModification

        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.population_search import ImprovedGeneticSearch

        config = self.config
        return Parts(
            NeighborSwap(self._found("counterfitted-neighbors"), config.max_candidates),
            [
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=config.max_changed),
            ],
            ImprovedGeneticSearch(config.population, config.iterations, config.max_replacements),
        )
