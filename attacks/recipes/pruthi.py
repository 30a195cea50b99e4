"""The character attack of Pruthi et al.

Pruthi, Dhingra, Lipton. Combating Adversarial Misspellings with Robust Word Recognition.
ACL 2019. https://aclanthology.org/P19-1561/

Of all single typos inside all words of four letters or more (two letters swapped, one dropped,
added or hit beside on the keyboard; first and last letters stay), the one that hurts most is made;
then, where more words may change, the next.

As in TextAttack 0.3.11 (``Pruthi2019``) but for:

* The stopwords are those of the corpus that the result names, not of whichever NLTK finds first.
* The search is our own copy of greedy search, for TextAttack's fails where ``max_queries`` is
  reached between two steps.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn adds one random letter at each place where the paper tries all of them,
and it changes no word twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class PruthiConfig(RecipeConfig):
    """Settings of the attack."""

    max_word_swaps: PositiveInt = 1  # words that get a typo; the paper reports 1 and 2


class Pruthi(TextAttackRecipe[PruthiConfig]):
    """One typo or two, the worst of all."""

    name = "pruthi"
    paper = "Pruthi et al. 2019, https://aclanthology.org/P19-1561/"
    edits = "one typo inside a word of 4 letters or more, in max_word_swaps words"
    deviation = "one random letter at each place where the paper tries all; own greedy search"
    needs = ("stopwords",)
    config_class = PruthiConfig

    def parts(self) -> Parts:
        """All four typos everywhere inside the words, greedy over all of them."""
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import (
            MinWordLength,
            RepeatModification,
            StopwordModification,
        )
        from textattack.transformations import (
            CompositeTransformation,
            WordSwapNeighboringCharacterSwap,
            WordSwapQWERTY,
            WordSwapRandomCharacterDeletion,
            WordSwapRandomCharacterInsertion,
        )

        from attacks.parts.greedy_search import GreedySearch

        typos = (
            WordSwapNeighboringCharacterSwap,
            WordSwapRandomCharacterDeletion,
            WordSwapRandomCharacterInsertion,
            WordSwapQWERTY,
        )
        return Parts(
            CompositeTransformation(
                [
                    typo(random_one=False, skip_first_char=True, skip_last_char=True)
                    for typo in typos
                ]
            ),
            [
                MinWordLength(min_length=4),
                StopwordModification(self._stopwords()),
                MaxWordsPerturbed(max_num_words=self.config.max_word_swaps),
                RepeatModification(),
            ],
            GreedySearch(),
        )
