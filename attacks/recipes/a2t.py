"""A2T, the attack for adversarial training.

Yoo, Qi. Towards Improving Adversarial Training of NLP Models. Findings of EMNLP 2021.
https://arxiv.org/abs/2109.00544

Words are ranked once by the gradient of the loss, which costs one backward pass instead of a query
a word; in that order each is replaced by the near word that hurts most among those of the same part
of speech, as long as a sentence encoder finds the text very similar to the original.

As in TextAttack 0.3.11 (``A2TYoo2021``) but for:

* A word has up to 8 candidates, those of the published neighbour list, where the paper takes 20
  from the vectors: those come unhashed from a server, as an archive that has to be unpickled. The
  list leaves out what is not near enough, which stands for the bound on the words' cosine.
* The gradient is of our victims, through their defence, and counts as one query.
* The sentence encoder is the one that the result names, of the paper's kind (Sentence-BERT) but not
  its model. The threshold is the paper's, a cosine of 0.9.
* The tagger is the one that the result names, and it is asked for the very word that was swapped.
* The stopwords are those of the corpus that the result names.
* Of a pair the columns that ``modify`` names change, whatever they are called.

``candidates=masked-lm`` is the paper's A2T-MLM, which takes 20 words of BERT's for each place.
``ranking=delete`` ranks by the score without the word, for victims that show no gradients.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from attacks.gradients import GradientConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe
from robust_prefix.evaluation.protocols import ThreatModel


@dataclass(frozen=True, kw_only=True)
class A2TConfig(GradientConfig):
    """Settings of A2T; the bounds are the paper's."""

    candidates: Literal["neighbors", "masked-lm"] = "neighbors"
    max_candidates: PositiveInt = 20  # of a word; of neighbours 8 are listed
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.1  # share of the words, 4 words at least
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.9  # cosine with the original
    ranking: Literal["gradient", "delete"] = "gradient"


class A2T(TextAttackRecipe[A2TConfig]):
    """Near words for the words with the largest gradients."""

    name = "a2t"
    paper = "Yoo and Qi 2021, https://arxiv.org/abs/2109.00544"
    knowledge = "gradient"
    edits = (
        "one candidate a word, in max_changed of the words or 4, no stopwords, same part of "
        "speech, similarity at least min_similarity"
    )
    deviation = (
        "8 listed neighbours a word, where candidates are neighbors, for the paper's 20; MiniLM in "
        "place of stsb-distilbert"
    )
    needs = (
        "stopwords",
        "counterfitted-neighbors",
        "averaged_perceptron_tagger_eng",
        "sentence-encoder",
    )
    config_class = A2TConfig

    def _needed(self) -> tuple[str, ...]:
        if self.config.candidates == "neighbors":
            return self.needs
        others = (name for name in self.needs if name != "counterfitted-neighbors")
        return (*others, "bert-base-uncased")

    @property
    def threat(self) -> ThreatModel:
        """See ``Recipe``. Ranked by deletion it reads scores alone."""
        by_gradient = self.config.ranking == "gradient"
        return dataclasses.replace(super().threat, knowledge="gradient" if by_gradient else "score")

    def parts(self) -> Parts:
        """Candidates under four constraints, greedy by gradient."""
        from textattack.constraints.pre_transformation import (
            MaxModificationRate,
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.gradient_ranking import GradientRanking
        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.part_of_speech import SamePartOfSpeech
        from attacks.parts.sentence_similarity import SentenceSimilarity

        return Parts(
            self._swap(),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                MaxModificationRate(max_rate=self.config.max_changed, min_threshold=4),
                SamePartOfSpeech(
                    self._found("averaged_perceptron_tagger_eng"), verb_for_noun=False
                ),
                SentenceSimilarity(
                    self._found("sentence-encoder"), threshold=self.config.min_similarity
                ),
            ],
            GradientRanking(self.config.through)
            if self.config.ranking == "gradient"
            else ImportanceSearch(wir_method="delete"),
        )

    def _swap(self) -> Any:
        from attacks.parts.masked_swaps import MaskedSwap
        from attacks.parts.neighbor_swap import NeighborSwap

        if self.config.candidates == "masked-lm":
            return MaskedSwap(self._found("bert-base-uncased"), self.config.max_candidates)
        return NeighborSwap(self._found("counterfitted-neighbors"), self.config.max_candidates)
