"""The faster genetic attack of Jia et al.

Jia, Raghunathan, Goksel, Liang. Certified Robustness to Adversarial Word Substitutions.
EMNLP 2019. https://arxiv.org/abs/1909.00986

The genetic attack of Alzantot et al. over substitutes that are fixed beforehand: the neighbours in
the counter-fitted vectors that, in the original text, a language model finds not much less likely
than the word itself.

As in TextAttack 0.3.11 (``FasterGeneticAlgorithmJia2019``) but for:

* Neighbours are the published list's, up to 8 as in the paper; the list leaves out what is not
  near enough, which stands for the bound on the distance.
* The language model is the one that the result names, for the paper's ("Learning to Write") is a
  download. The bound, 5 nats over 6 words on each side, is the paper's and meant for that one.
* Words are compared in the original, as in the paper; TextAttack compares the texts as they are.
* Parents are drawn as in the paper; TextAttack draws the worst most (see ``population_search``).
  Children keep the share of words that may change, too, which TextAttack does not check.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

Without ``max_queries`` a text that holds may cost twenty thousand queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class FasterAlzantotConfig(RecipeConfig):
    """Settings of the attack; the defaults are the paper's."""

    population: PositiveInt = 60
    iterations: PositiveInt = 40
    max_candidates: Annotated[int, Field(ge=1, le=8)] = 8  # neighbours of a word; 8 are listed
    max_drop: NonNegativeFloat = 5.0  # of the window's log-likelihood, in nats
    window: PositiveInt = 6  # words on each side that the language model sees
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of the words


class FasterAlzantot(TextAttackRecipe[FasterAlzantotConfig]):
    """A genetic search over near words that fit the original."""

    name = "faster-alzantot"
    paper = "Jia et al. 2019, https://arxiv.org/abs/1909.00986"
    edits = (
        "one listed neighbour a word, max_drop nats less likely there at most, in max_changed of "
        "the words, no stopwords"
    )
    deviation = "SmolLM2-135M in place of the Learning-to-Write language model"
    needs = ("stopwords", "counterfitted-neighbors", "language-model")
    config_class = FasterAlzantotConfig

    def parts(self) -> Parts:
        """Listed neighbours likely enough in the original, genetic search."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.fluency import FluentEnough
        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.population_search import GeneticSearch

        config = self.config
        return Parts(
            NeighborSwap(self._found("counterfitted-neighbors"), config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=config.max_changed),
                FluentEnough(self._found("language-model"), config.max_drop, config.window),
            ],
            GeneticSearch(config.population, config.iterations),
        )
