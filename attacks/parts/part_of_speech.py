"""Swaps that keep the part of speech. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from typing import Any

from textattack.constraints import Constraint
from textattack.shared.validators import transformation_consists_of_word_swaps

from attacks.resources.base import Found
from attacks.resources.tagger import UNIVERSAL_TAGS, load_tagger

_BEFORE, _AFTER = 4, 3  # words around the swapped one that the tagger sees, as in TextAttack


class SamePartOfSpeech(Constraint):
    """The swapped word has the universal tag of the old one.

    TextAttack's ``PartOfSpeech`` takes whichever tagger NLTK finds first, and the tag of the
    first word in the context that is spelt like the swapped one.

    Args:
        found: the tagger.
        verb_for_noun: whether nouns and verbs pass for each other.
    """

    def __init__(self, found: Found, verb_for_noun: bool = True) -> None:
        super().__init__(compare_against_original=True)
        self._tagger = load_tagger(found)
        self._verb_for_noun = verb_for_noun
        self._tags: dict[tuple[str, ...], list[str]] = {}

    def clear_cache(self) -> None:
        """Forget the tags of the example's texts."""
        self._tags.clear()

    def check_compatibility(self, transformation: Any) -> bool:
        """Tags are comparable only word by word."""
        return bool(transformation_consists_of_word_swaps(transformation))

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        old, new = reference_text.words, transformed_text.words
        if len(old) != len(new):  # the swap changed where TextAttack sees words
            return False
        return all(
            self._passes(old, index, new[index])
            for index in transformed_text.attack_attrs["newly_modified_indices"]
        )

    def _passes(self, words: list[str], index: int, word: str) -> bool:
        start = max(index - _BEFORE, 0)
        context = words[start : index + 1 + _AFTER]
        place = index - start
        tags = {
            self._tag((*context[:place], w, *context[place + 1 :]))[place]
            for w in (words[index], word)
        }
        return len(tags) == 1 or (self._verb_for_noun and tags == {"NOUN", "VERB"})

    def _tag(self, words: tuple[str, ...]) -> list[str]:
        if words not in self._tags:
            tagged = self._tagger.tag(list(words))
            self._tags[words] = [UNIVERSAL_TAGS.get(tag, "X") for _, tag in tagged]
        return self._tags[words]
