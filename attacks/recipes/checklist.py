"""CheckList's invariance tests.

Ribeiro, Wu, Guestrin, Singh. Beyond Accuracy: Behavioral Testing of NLP Models with CheckList.
ACL 2020. https://aclanthology.org/2020.acl-main.442/

Edits that should change no answer: contractions are written out and made, names of people, places
and numbers exchanged. The one that hurts most is made, then the next, until the class changes.

As in TextAttack 0.3.11 (``CheckList2020``) but for:

* Names are told by the lists inside TextAttack and by capitals, for its recogniser (flair's) is a
  download. In a text without capitals, such as those of SST-2, names of people are not found.
* Contractions are made in the columns that may change, in any place; TextAttack finds them where
  every word before may change, too. Those that a corpus writes in two words ("do n't") stay.
* Numbers of several words stay; TextAttack takes out the wrong words where their count differs.
* The search is our own copy of greedy search, for TextAttack's fails where ``max_queries`` is
  reached between two steps.
* Of a pair only the columns that ``modify`` names change; TextAttack's recipe edits both.

Many texts have nothing to exchange. TextAttack's recipe in turn has none of the paper's other
tests: typos, paraphrases, added text, and those on templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class ChecklistConfig(RecipeConfig):
    """Settings of the attack."""

    draws: Annotated[int, Field(ge=1, le=100)] = 3  # random names, places or numbers for one


class Checklist(TextAttackRecipe[ChecklistConfig]):
    """Other names, places, numbers and contractions, the worst of all."""

    name = "checklist"
    paper = "Ribeiro et al. 2020, https://aclanthology.org/2020.acl-main.442/"
    edits = "contractions; one of draws other names, places and numbers for each"
    deviation = "names by lists and capitals in place of a recogniser; the invariance tests alone"
    config_class = ChecklistConfig

    def parts(self) -> Parts:
        """Contractions, names, numbers and places, greedy over all of them."""
        from textattack.constraints.pre_transformation import RepeatModification
        from textattack.transformations import CompositeTransformation

        from attacks.parts.checklist_swaps import (
            ContractionSwap,
            LocationSwap,
            NameSwap,
            NumberSwap,
        )
        from attacks.parts.greedy_search import GreedySearch

        draws = self.config.draws
        return Parts(
            CompositeTransformation(
                [ContractionSwap(), NameSwap(draws), NumberSwap(draws), LocationSwap(draws)]
            ),
            [RepeatModification()],
            GreedySearch(),
        )
