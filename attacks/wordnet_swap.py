"""Swapping a word for its WordNet synonyms. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

import warnings
from functools import lru_cache

from nltk.corpus.reader import WordNetCorpusReader
from textattack.shared.utils import is_one_word
from textattack.transformations import WordSwap

from attacks.nltk_data import nltk_root
from attacks.resource_base import Found


class WordNetSwap(WordSwap):
    """TextAttack's ``WordSwapWordNet`` for a given WordNet, each word looked up once."""

    def __init__(self, wordnet: Found) -> None:
        super().__init__()
        self._wordnet = _reader(wordnet)
        self._synonyms: dict[str, list[str]] = {}

    def _get_replacement_words(self, word: str) -> list[str]:
        """The single words that share a synset with ``word``, in alphabetical order."""
        if word not in self._synonyms:
            names = {
                name for synset in self._wordnet.synsets(word) for name in synset.lemma_names()
            }
            self._synonyms[word] = sorted(
                name for name in names if name != word and "_" not in name and is_one_word(name)
            )
        return self._synonyms[word]


class _EnglishWordNet(WordNetCorpusReader):
    """NLTK's reader without the two seconds it spends on preparing for other languages."""

    def map_wn(self, version: str = "wordnet") -> None:
        """No mapping of senses to other versions, which only other languages need."""


@lru_cache
def _reader(wordnet: Found) -> _EnglishWordNet:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions")
        return _EnglishWordNet(nltk_root(wordnet), None)
