"""TextFooler.

Jin, Jin, Zhou, Szolovits. Is BERT Really Robust? A Strong Baseline for Natural Language Attack on
Text Classification and Entailment. AAAI 2020. https://arxiv.org/abs/1907.11932

Words are ranked by how much the score of the true class falls without them; in that order each is
replaced by the neighbour in the counter-fitted vectors that hurts most among those that keep the
part of speech and, by a sentence encoder, the meaning.

As in TextAttack 0.3.11 (``TextFoolerJin2019``) but for:

* A word has up to 8 candidates, those of the published neighbour list, where the paper takes up to
  50 from the vectors: those come unhashed from a server, as an archive that has to be unpickled.
  Whatever is not near enough is left out of the list already, which stands for the bound on the
  words' cosine. With fewer candidates the attack is weaker than the paper's.
* The sentence encoder is the one that the result names, for the paper's (USE) needs TensorFlow
  Hub. The threshold is TextAttack's, 1 - 0.5 / pi in angular similarity, which was meant for USE.
* The tagger is the one that the result names, and it is asked for the very word that was swapped.
* Of a pair the columns that ``modify`` names change, whatever they are called.

TextAttack's recipe in turn does not check meaning in texts shorter than the window of 15 words;
the authors' code nearly so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Annotated
from unittest import mock

from pydantic import Field

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class TextFoolerConfig(RecipeConfig):
    """Settings of TextFooler."""

    max_candidates: Annotated[int, Field(ge=1, le=8)] = 8  # neighbours of a word; 8 are listed
    min_similarity: Annotated[float, Field(ge=0, le=1)] = round(1 - 0.5 / pi, 9)  # angular, 0 to 1


class TextFooler(TextAttackRecipe[TextFoolerConfig]):
    """Near words of the same part of speech, sentences of much the same meaning."""

    name = "textfooler"
    paper = "Jin et al. 2020, https://arxiv.org/abs/1907.11932"
    edits = (
        "one near word of the same part of speech a word; window similarity of min_similarity "
        "or more"
    )
    deviation = (
        "up to 8 listed neighbours in place of 50 from the vectors; MiniLM in place of USE, "
        "not asked about texts shorter than 15 words"
    )
    needs = ("counterfitted-neighbors", "averaged_perceptron_tagger_eng", "sentence-encoder")
    config_class = TextFoolerConfig

    def parts(self) -> Parts:
        """Listed neighbours under both constraints, greedy by importance."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.part_of_speech import SamePartOfSpeech
        from attacks.parts.sentence_similarity import SentenceSimilarity

        return Parts(
            NeighborSwap(self._found("counterfitted-neighbors"), self.config.max_candidates),
            [
                RepeatModification(),
                StopwordModification(paper_stopwords()),
                SamePartOfSpeech(self._found("averaged_perceptron_tagger_eng")),
                SentenceSimilarity(
                    self._found("sentence-encoder"),
                    threshold=self.config.min_similarity,
                    metric="angular",
                    compare_against_original=False,
                    window_size=15,
                    skip_text_shorter_than_window=True,
                ),
            ],
            ImportanceSearch(wir_method="delete"),
        )


def paper_stopwords() -> frozenset[str]:
    """The stopwords of the authors' code, which TextAttack keeps inside its recipe's ``build``."""
    from textattack.attack_recipes import textfooler_jin_2019 as shipped

    # Everything that would load vectors or models is stood in for while it builds.
    names = (
        "Attack",
        "GreedyWordSwapWIR",
        "PartOfSpeech",
        "StopwordModification",
        "UniversalSentenceEncoder",
        "UntargetedClassification",
        "WordEmbeddingDistance",
        "WordSwapEmbedding",
    )
    with mock.patch.multiple(shipped, **dict.fromkeys(names, mock.DEFAULT)) as stood_in:
        shipped.TextFoolerJin2019.build(None)
    return frozenset(stood_in["StopwordModification"].call_args.kwargs["stopwords"])
