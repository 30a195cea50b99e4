"""Morpheus.

Tan, Joty, Kan, Socher. It's Morphin' Time! Combating Linguistic Discrimination with Inflectional
Perturbations. ACL 2020. https://aclanthology.org/2020.acl-main.263/

Nouns, verbs and adjectives get other inflections, as in the English of many who learnt it late:
word by word the inflection that hurts most, from the first to the last, then once more from the
last to the first.

As in the paper but for:

* The tagger is the one that the result names, on words as TextAttack sees them.
* A word whose lemma is unknown for its tag takes its first lemma, not a random one.
* The search ends with the first wrong class, and a pass that reached it is not followed by the
  other; the authors offer that, too, as the conservative variant.
* Of a pair only the columns that ``modify`` names change.

TextAttack 0.3.11 (``MorpheusTan2020``) attacks translation alone, tags with a model that it
downloads, spares stopwords and tries all inflections of all words at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacks.base import RecipeConfig
from attacks.textattack_recipe import Parts, TextAttackRecipe


@dataclass(frozen=True, kw_only=True)
class MorpheusConfig(RecipeConfig):
    """Settings of Morpheus: none of its own."""


class Morpheus(TextAttackRecipe[MorpheusConfig]):
    """The worst inflection of each word in turn."""

    name = "morpheus"
    paper = "Tan et al. 2020, https://aclanthology.org/2020.acl-main.263/"
    edits = "one other inflection a noun, verb or adjective"
    deviation = "ends with the first wrong class; NLTK's perceptron tagger"
    needs = ("averaged_perceptron_tagger_eng",)
    config_class = MorpheusConfig

    def parts(self) -> Parts:
        """All inflections of a word, greedy in the order of the text."""
        from attacks.parts.inflection_swap import InflectionSwap
        from attacks.parts.ordered_search import OrderedSearch

        return Parts(
            InflectionSwap(self._found("averaged_perceptron_tagger_eng")), [], OrderedSearch()
        )
