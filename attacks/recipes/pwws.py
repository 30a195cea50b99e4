"""Probability Weighted Word Saliency (PWWS).

Ren, Deng, He, Che. Generating Natural Language Adversarial Examples through Probability Weighted
Word Saliency. ACL 2019. https://aclanthology.org/P19-1103/

Words are ranked by their saliency (how much the true class loses when the word becomes ``[UNK]``)
times the best that a WordNet synonym achieves; then they are replaced in that order until the
class changes.

As in TextAttack 0.3.11 (``PWWSRen2019``) but for:

* Synonyms and stopwords are those of the corpora that the result names, not of whichever NLTK
  finds first, and the synonyms of a word are looked up once. TextAttack's transformation asks
  NLTK to download ``omw-1.4`` whenever it is built; English needs nothing of it.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn leaves out the paper's swap of named entities, which needs the whole
data set with its labels; takes synonyms of every part of speech; spares stopwords; weighs by the
score that a synonym reaches where the paper weighs by the change; and asks the victim about a
word's synonyms anew when the word's turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class PWWSConfig(RecipeConfig):
    """Settings of PWWS: none of its own."""


class PWWS(TextAttackRecipe[PWWSConfig]):
    """WordNet synonyms for the words that matter most."""

    name = "pwws"
    paper = "Ren et al. 2019, https://aclanthology.org/P19-1103/"
    edits = "one WordNet synonym a word, no stopwords"
    deviation = (
        "no swap of named entities; synonyms of every part of speech; weighted by the score "
        "reached, as in TextAttack 0.3.11"
    )
    needs = ("stopwords", "wordnet")
    config_class = PWWSConfig

    def parts(self) -> Parts:
        """All WordNet synonyms of a word, greedy by weighted saliency."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )

        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.wordnet_swap import WordNetSwap

        return Parts(
            WordNetSwap(self._found("wordnet")),
            [RepeatModification(), StopwordModification(self._stopwords())],
            ImportanceSearch("weighted-saliency"),
        )
