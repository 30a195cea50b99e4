"""Swapping a word for its inflections. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import lemminflect
from textattack.shared.utils import is_one_word
from textattack.transformations import WordSwap

from attacks.resources.base import Found
from attacks.resources.neighbors import match_case
from attacks.resources.tagger import universal_tags

_INFLECTED = ("NOUN", "VERB", "ADJ")


class InflectionSwap(WordSwap):
    """Nouns, verbs and adjectives by the other inflections of their lemma.

    TextAttack's ``WordSwapInflections`` tags with a model that it downloads.

    Args:
        found: the tagger.
    """

    def __init__(self, found: Found) -> None:
        super().__init__()
        self._tagger = found

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        tags = [
            tag
            for column in current_text.words_per_input
            for tag in universal_tags(self._tagger, column)
        ]
        words = current_text.words
        if len(tags) != len(words):  # TextAttack sees other words in a column than in the whole
            return []
        return [
            current_text.replace_word_at_index(index, inflection)
            for index in sorted(indices_to_modify)
            for inflection in self._get_replacement_words(words[index], tags[index])
        ]

    def _get_replacement_words(self, word: str, tag: str) -> list[str]:
        cased = (match_case(inflection, word) for inflection in inflections(word.lower(), tag))
        return [inflection for inflection in dict.fromkeys(cased) if inflection != word]


@lru_cache(maxsize=2**16)
def inflections(word: str, tag: str) -> tuple[str, ...]:
    """All inflections of the lemma of ``word``, in alphabetical order, itself included.

    Args:
        word: in lower case.
        tag: its universal part of speech; none but nouns, verbs and adjectives have inflections.
    """
    if tag not in _INFLECTED:
        return ()
    lemmas = lemminflect.getAllLemmas(word)
    # As in the paper's code, but for the first lemma where that draws one.
    lemma = lemmas.get(tag) or next(iter(lemmas.values()), ())
    if not lemma:
        return ()
    forms = lemminflect.getAllInflections(lemma[0], upos=tag).values()
    return tuple(sorted({form for group in forms for form in group if is_one_word(form)}))
