"""BAE: BERT-based adversarial examples.

Garg, Ramakrishnan. BAE: BERT-based Adversarial Examples for Text Classification. EMNLP 2020.
https://arxiv.org/abs/2004.01970

Words are ranked by how much the score of the true class falls without them; in that order each is
masked and replaced by the word that hurts most among those that a masked language model puts there,
as long as the part of speech stays and a sentence encoder finds the text similar. This is the
paper's BAE-R, which replaces; inserting is left out.

As in TextAttack 0.3.11 (``BAEGarg2019``) but for:

* Pieces of words that the model predicts are left out, as by the authors; TextAttack cuts off their
  mark and takes them for words.
* The sentence encoder is the one that the result names, for the paper's (USE) needs TensorFlow
  Hub. The threshold is TextAttack's, 1 - 0.2 / pi in cosine, which was meant for USE.
* The tagger is the one that the result names, and it is asked for the very word that was swapped.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn does not check meaning in texts shorter than the window of 15 words, and
compares with the original where the authors' code compares with the step before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Annotated

from pydantic import Field, PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class BAEConfig(RecipeConfig):
    """Settings of BAE."""

    max_candidates: PositiveInt = 50  # words that the model puts in a place
    min_similarity: Annotated[float, Field(ge=0, le=1)] = round(1 - 0.2 / pi, 9)  # cosine


class BAE(TextAttackRecipe[BAEConfig]):
    """Words that fit the context, for the words that matter most."""

    name = "bae"
    paper = "Garg and Ramakrishnan 2020, https://arxiv.org/abs/2004.01970"
    edits = (
        "one word of a masked language model a word, no stopwords, same part of speech, similarity "
        "of 15 words around it at least min_similarity"
    )
    deviation = "MiniLM in place of USE under USE's threshold"
    needs = (
        "stopwords",
        "bert-base-uncased",
        "averaged_perceptron_tagger_eng",
        "sentence-encoder",
    )
    config_class = BAEConfig

    def parts(self) -> Parts:
        """Masked words under both constraints, greedy by importance."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.masked_swaps import MaskedSwap
        from attacks.parts.part_of_speech import SamePartOfSpeech
        from attacks.parts.sentence_similarity import SentenceSimilarity

        return Parts(
            MaskedSwap(self._found("bert-base-uncased"), self.config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                SamePartOfSpeech(self._found("averaged_perceptron_tagger_eng")),
                SentenceSimilarity(
                    self._found("sentence-encoder"),
                    threshold=self.config.min_similarity,
                    window_size=15,
                    skip_text_shorter_than_window=True,
                ),
            ],
            ImportanceSearch(wir_method="delete"),
        )
