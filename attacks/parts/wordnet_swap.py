"""Swapping a word for its WordNet synonyms. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from textattack.shared.utils import is_one_word
from textattack.transformations import WordSwap

from attacks.resources.base import Found
from attacks.resources.wordnet import wordnet_synonyms


class WordNetSwap(WordSwap):
    """TextAttack's ``WordSwapWordNet`` for a given WordNet, each word looked up once."""

    def __init__(self, wordnet: Found) -> None:
        super().__init__()
        self._wordnet = wordnet
        self._synonyms: dict[str, list[str]] = {}

    def _get_replacement_words(self, word: str) -> list[str]:
        """The single words that share a synset with ``word``, in alphabetical order."""
        if word not in self._synonyms:
            self._synonyms[word] = [
                name
                for name in wordnet_synonyms(self._wordnet, word)
                if "_" not in name and is_one_word(name)
            ]
        return self._synonyms[word]
