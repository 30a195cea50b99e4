"""Input reduction.

Feng, Wallace, Grissom, Iyyer, Rodriguez, Boyd-Graber. Pathologies of Neural Models Make
Interpretations Difficult. EMNLP 2018. https://arxiv.org/abs/1804.07781

Words are removed, those first without which the model is surest, as long as it keeps its answer.
What is left means nothing to a reader. Not a misclassification: a success is a text of
``target_words`` words that still gets the answer of the whole.

As in TextAttack 0.3.11 (``InputReductionFeng2018``) but for:

* Stopwords go, too, as in the paper; TextAttack spares them, and so hardly ever gets to one word.
* Words are ranked by the victim's scores once a round, and rounds follow each other until nothing
  goes; TextAttack ranks once and then confuses the words' places (see ``parts.reduction``). The
  paper ranks anew after each removal, by gradients, and keeps the 5 best texts.
* The attack ends at ``target_words``; TextAttack calls whatever is left a success.
* Only the words of the columns that ``modify`` names go and are counted. Punctuation stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class InputReductionConfig(RecipeConfig):
    """Settings of input reduction."""

    target_words: PositiveInt = 1  # that may be left; the paper's means are between 1 and 3


class InputReduction(TextAttackRecipe[InputReductionConfig]):
    """Fewer and fewer words, the same answer."""

    name = "input-reduction"
    paper = "Feng et al. 2018, https://arxiv.org/abs/1804.07781"
    goal = "keep"
    edits = "words removed until target_words are left"
    deviation = "ranks by scores once a round, where the paper ranks by gradients with a beam of 5"
    config_class = InputReductionConfig

    def parts(self) -> Parts:
        """Deletion of single words, the least important first."""
        from textattack.transformations import WordDeletion

        from attacks.parts.reduction import ReductionSearch

        return Parts(WordDeletion(), [], ReductionSearch())

    def goal_function(self, **settings: Any) -> Any:
        """See ``TextAttackRecipe``: the answer stays, the words go."""
        from attacks.parts.reduction import KeepAnswer

        reducible = [column not in self._protected for column in self.columns]
        return KeepAnswer(self._wrapper, reducible, self.config.target_words, **settings)
