"""BERT-Attack.

Li, Ma, Guo, Xue, Qiu. BERT-ATTACK: Adversarial Attack Against BERT Using BERT. EMNLP 2020.
https://arxiv.org/abs/2004.09984

Words are ranked by how much the score of the true class falls when they are unknown; in that order
each is replaced by the word that hurts most among those that a masked language model, which reads
the text with nothing masked, predicts in its place. For a word of several pieces the predictions
for the pieces are combined, those with the least perplexity first.

As in TextAttack 0.3.11 (``BERTAttackLi2020``) but for:

* 48 candidates, as in the paper. TextAttack takes 8, for it tries all combinations of pieces, of
  which it then keeps the first ones made; here the best are found without trying all, and kept.
* A word's pieces are where the model reads them; TextAttack looks for them in the text with the
  word masked, where they have moved.
* The sentence encoder is the one that the result names, for the paper's (USE) needs TensorFlow
  Hub. The threshold is TextAttack's, a cosine of 0.2, which was meant for USE.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn puts ``[UNK]`` where the paper puts ``[MASK]``, asks the model anew
after each swap where the authors ask once, and does not remove antonyms from the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class BERTAttackConfig(RecipeConfig):
    """Settings of BERT-Attack; the first two are the paper's."""

    max_candidates: PositiveInt = 48  # words that the model predicts for a word
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.4  # share of the words
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.2  # cosine with the original


class BERTAttack(TextAttackRecipe[BERTAttackConfig]):
    """Words that BERT would rather read, for the words that matter most."""

    name = "bert-attack"
    paper = "Li et al. 2020, https://arxiv.org/abs/2004.09984"
    edits = (
        "one word of a masked language model a word, in max_changed of the words, no stopwords, "
        "similarity at least min_similarity"
    )
    deviation = "MiniLM in place of USE; words ranked by [UNK] in their place, antonyms kept"
    needs = ("stopwords", "bert-base-uncased", "sentence-encoder")
    config_class = BERTAttackConfig

    def parts(self) -> Parts:
        """Predicted words alike to the original, greedy by importance."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.masked_swaps import PieceSwap
        from attacks.parts.sentence_similarity import SentenceSimilarity

        return Parts(
            PieceSwap(self._found("bert-base-uncased"), self.config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_percent=self.config.max_changed),
                SentenceSimilarity(
                    self._found("sentence-encoder"), threshold=self.config.min_similarity
                ),
            ],
            ImportanceSearch(wir_method="unk"),
        )
