"""CLARE.

Li, Zhang, Peng, Chen, Brockett, Sun, Dolan. Contextualized Perturbation for Textual Adversarial
Attack. NAACL 2021. https://arxiv.org/abs/2009.07502

A masked language model proposes, at each place of the text, words to replace one, to insert before
it, or to merge two into; of all of them the one that hurts most is made, then the next, as long as
a sentence encoder finds the text similar to the original, until the class changes.

As in TextAttack 0.3.11 (``CLARE2020``) but for:

* Pieces of words that the model predicts are left out; TextAttack cuts off their mark.
* Which neighbours may be merged is told by the tagger that the result names, in place of flair's,
  a download. Merging keeps to the columns that may change and to words not changed yet.
* The sentence encoder is the one that the result names, for the paper's (USE) needs TensorFlow
  Hub. The threshold is the paper's, a cosine of 0.7, which was meant for USE.
* The stopwords are those of the corpus that the result names.
* The search is our own copy of greedy search, for TextAttack's fails where ``max_queries`` is
  reached between two steps.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn asks about all proposals anew after each step, where the authors rank
them once, so without ``max_queries`` a long text may cost thousands of queries a step; it spares
stopwords in replacing; and it does not check meaning in texts shorter than 15 words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe

# Least probabilities of what is put in a place, as in TextAttack.
_REPLACED, _INSERTED, _MERGED = 5e-4, 0.0, 5e-3


@dataclass(frozen=True, kw_only=True)
class CLAREConfig(RecipeConfig):
    """Settings of CLARE."""

    max_candidates: PositiveInt = 50  # words that the model puts in a place, each of three ways
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.7  # cosine


class CLARE(TextAttackRecipe[CLAREConfig]):
    """Words replaced, inserted and merged as the context suggests."""

    name = "clare"
    paper = "Li et al. 2021, https://arxiv.org/abs/2009.07502"
    edits = (
        "words of a masked language model replace a word, come before one or merge two, "
        "similarity of 15 words around it at least min_similarity"
    )
    deviation = "MiniLM in place of USE under USE's threshold; proposals made anew after each step"
    needs = (
        "stopwords",
        "distilroberta-base",
        "averaged_perceptron_tagger_eng",
        "sentence-encoder",
    )
    config_class = CLAREConfig

    def parts(self) -> Parts:
        """Three kinds of proposals alike to the original, greedy over all of them."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )
        from textattack.transformations import CompositeTransformation

        from attacks.parts.greedy_search import GreedySearch
        from attacks.parts.masked_swaps import MaskedInsertion, MaskedMerge, MaskedSwap
        from attacks.parts.sentence_similarity import SentenceSimilarity

        model, count = self._found("distilroberta-base"), self.config.max_candidates
        tagger = self._found("averaged_perceptron_tagger_eng")
        return Parts(
            CompositeTransformation(
                [
                    MaskedSwap(model, count, _REPLACED),
                    MaskedInsertion(model, count, _INSERTED),
                    MaskedMerge(model, tagger, count, _MERGED),
                ]
            ),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                SentenceSimilarity(
                    self._found("sentence-encoder"),
                    threshold=self.config.min_similarity,
                    window_size=15,
                    skip_text_shorter_than_window=True,
                ),
            ],
            GreedySearch(),
        )
