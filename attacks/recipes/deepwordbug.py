"""DeepWordBug.

Gao, Lanchantin, Soffa, Qi. Black-box Generation of Adversarial Text Sequences to Evade Deep
Learning Classifiers. IEEE Security and Privacy Workshops 2018. https://arxiv.org/abs/1801.04354

Words are ranked by how much the score of the true class falls without them; from the most
important on, each gets one typo out of four (two letters swapped, one substituted, deleted or
inserted), the one that hurts most, until the class changes.

As in TextAttack 0.3.11 (``DeepWordBugGao2018``) but for:

* The stopwords are those of the corpus that the result names, not of whichever NLTK finds first.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn ranks words by putting ``[UNK]`` in their place, where the paper scores
them by the text before and after, and it spares stopwords, which the paper does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class DeepWordBugConfig(RecipeConfig):
    """Settings of DeepWordBug."""

    all_transformations: bool = True  # false: substitution alone, as in the paper's main results
    max_edit_distance: PositiveInt = 30  # characters a text, the paper's epsilon


class DeepWordBug(TextAttackRecipe[DeepWordBugConfig]):
    """Typos in the words that matter most."""

    name = "deepwordbug"
    paper = "Gao et al. 2018, https://arxiv.org/abs/1801.04354"
    edits = "typos of max_edit_distance characters in all, one word once, no stopwords"
    deviation = "words ranked by [UNK] in their place; stopwords spared, as in TextAttack 0.3.11"
    needs = ("stopwords",)
    config_class = DeepWordBugConfig

    def parts(self) -> Parts:
        """Four random typos a word, at most ``max_edit_distance`` edits, greedy by importance."""
        from textattack.constraints.overlap import LevenshteinEditDistance
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )
        from textattack.transformations import (
            CompositeTransformation,
            WordSwapNeighboringCharacterSwap,
            WordSwapRandomCharacterDeletion,
            WordSwapRandomCharacterInsertion,
            WordSwapRandomCharacterSubstitution,
        )

        from attacks.parts.importance_search import ImportanceSearch

        transformation = WordSwapRandomCharacterSubstitution()
        if self.config.all_transformations:
            transformation = CompositeTransformation(
                [
                    WordSwapNeighboringCharacterSwap(),
                    transformation,
                    WordSwapRandomCharacterDeletion(),
                    WordSwapRandomCharacterInsertion(),
                ]
            )
        return Parts(
            transformation,
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                LevenshteinEditDistance(self.config.max_edit_distance),
            ],
            ImportanceSearch(),
        )
