"""The greedy attack of Kuleshov et al.

Kuleshov, Thakoor, Lau, Ermon. Adversarial Examples for Natural Language Classification Problems.
2018. https://openreview.net/forum?id=r1QZ3zbAZ

Of all near words in the places of all words, the one that hurts most is put in, then the next, as
long as the text keeps its meaning and a language model finds it about as likely.

As in TextAttack 0.3.11 (``Kuleshov2017``) but for:

* A word has up to 8 neighbours, those of the published list, where the paper takes 15.
* Meaning is kept where the sentence encoder that the result names sees a cosine distance of 0.2 at
  most; paper and TextAttack bound the Euclidean distance of mean word vectors, also by 0.2, and
  those vectors come unhashed from a server.
* The language model is the one that the result names, for TextAttack's, GPT-2, is a download. Each
  swap may lower the log-likelihood of the words around it in the original by 2 nats; the paper
  bounds that of the whole text, TextAttack that of the word itself.
* The goal is a wrong class. Paper and TextAttack stop where the true class falls below 0.7, a text
  that the model still gets right.
* The search is our own copy of greedy search, for TextAttack's fails where ``max_queries`` is
  reached between two steps.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class KuleshovConfig(RecipeConfig):
    """Settings of the attack; the defaults are the paper's where not said otherwise."""

    max_candidates: Annotated[int, Field(ge=1, le=8)] = 8  # neighbours of a word; 8 are listed
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the words
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.8  # cosine with the original
    max_drop: NonNegativeFloat = 2.0  # of the window's log-likelihood, in nats
    window: PositiveInt = 6  # words on each side that the language model sees; our own


class Kuleshov(TextAttackRecipe[KuleshovConfig]):
    """The worst of all near words, over and over."""

    name = "kuleshov"
    paper = "Kuleshov et al. 2018, https://openreview.net/forum?id=r1QZ3zbAZ"
    edits = (
        "one listed neighbour a word, max_drop nats less likely there at most, in max_changed of "
        "the words, no stopwords; similarity of min_similarity or more"
    )
    deviation = (
        "up to 8 listed neighbours in place of 15; MiniLM and SmolLM2-135M in place of thought "
        "vectors and the paper's language model; goes on until the class is wrong"
    )
    needs = ("stopwords", "counterfitted-neighbors", "sentence-encoder", "language-model")
    config_class = KuleshovConfig

    def parts(self) -> Parts:
        """Listed neighbours under both constraints, greedy over all of them."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.fluency import FluentEnough
        from attacks.parts.greedy_search import GreedySearch
        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.sentence_similarity import SentenceSimilarity

        config = self.config
        return Parts(
            NeighborSwap(self._found("counterfitted-neighbors"), config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=config.max_changed),
                FluentEnough(self._found("language-model"), config.max_drop, config.window),
                SentenceSimilarity(
                    self._found("sentence-encoder"), threshold=config.min_similarity
                ),
            ],
            GreedySearch(),
        )
