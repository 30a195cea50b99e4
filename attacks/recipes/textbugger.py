"""TextBugger.

Li, Ji, Du, Li, Wang. TextBugger: Generating Adversarial Text Against Real-world Applications.
NDSS 2019. https://arxiv.org/abs/1812.05271

Words are ranked by how much the score of the true class falls without them; in that order each
gets the bug out of five that hurts most (a space inside, a letter less, two letters swapped, a
letter's double from another script, a near word), as long as a sentence encoder finds the text
similar to the original.

As in TextAttack 0.3.11 (``TextBuggerLi2018``), which cannot be built from its wheel, but for:

* The doubles are our own table, for TextAttack's data file is not in its wheel. Letters alone: the
  paper's signs and digits ("@" for "a") would cut words in two for TextAttack.
* Near words are the first 5 of the published counter-fitted neighbours; TextAttack takes 5 from
  those vectors, which come unhashed and pickled from a server, and the paper from GloVe.
* The sentence encoder is the one that the result names, for the paper's (USE) needs TensorFlow
  Hub. The threshold is the paper's, a cosine of 0.8, which was meant for USE.
* The stopwords are those of the corpus that the result names.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

TextAttack's recipe in turn spares stopwords and ranks by words alone, where the paper ranks the
sentences of a document first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class TextBuggerConfig(RecipeConfig):
    """Settings of TextBugger."""

    max_candidates: Annotated[int, Field(ge=1, le=8)] = 5  # near words; 8 are listed
    min_similarity: Annotated[float, Field(ge=0, le=1)] = 0.8  # cosine with the original


class TextBugger(TextAttackRecipe[TextBuggerConfig]):
    """Typos, look-alike letters and near words for the words that matter most."""

    name = "textbugger"
    paper = "Li et al. 2019, https://arxiv.org/abs/1812.05271"
    edits = (
        "one bug a word: split, shortened, swapped letters, look-alike letter or near word; "
        "sentence cosine of min_similarity or more"
    )
    deviation = (
        "own look-alike table, near words from the counter-fitted list, MiniLM in place of "
        "USE, words ranked without sentences"
    )
    needs = ("stopwords", "counterfitted-neighbors", "sentence-encoder")
    config_class = TextBuggerConfig

    def parts(self) -> Parts:
        """Five bugs a word, alike to the original, greedy by importance."""
        from textattack.constraints.pre_transformation import (
            RepeatModification,
            StopwordModification,
        )
        from textattack.transformations import (
            CompositeTransformation,
            WordSwapNeighboringCharacterSwap,
            WordSwapRandomCharacterDeletion,
            WordSwapRandomCharacterInsertion,
        )

        from attacks.parts.homoglyph_swap import HomoglyphSwap
        from attacks.parts.importance_search import ImportanceSearch
        from attacks.parts.neighbor_swap import NeighborSwap
        from attacks.parts.sentence_similarity import SentenceSimilarity

        inside = {"random_one": True, "skip_first_char": True, "skip_last_char": True}
        return Parts(
            CompositeTransformation(
                [
                    WordSwapRandomCharacterInsertion(letters_to_insert=" ", **inside),
                    WordSwapRandomCharacterDeletion(**inside),
                    WordSwapNeighboringCharacterSwap(**inside),
                    HomoglyphSwap(),
                    NeighborSwap(
                        self._found("counterfitted-neighbors"), self.config.max_candidates
                    ),
                ]
            ),
            [
                RepeatModification(),
                StopwordModification(self._stopwords()),
                SentenceSimilarity(
                    self._found("sentence-encoder"), threshold=self.config.min_similarity
                ),
            ],
            ImportanceSearch(wir_method="delete"),
        )
