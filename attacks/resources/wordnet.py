"""NLTK's readers over found folders of WordNet and stopwords. Imports NLTK: import it late."""

from __future__ import annotations

import warnings
from functools import lru_cache

from nltk.corpus.reader import WordListCorpusReader, WordNetCorpusReader

from attacks.resources.base import Found
from attacks.resources.nltk_data import nltk_root


def english_stopwords(found: Found) -> list[str]:
    """The English list of a found folder of stopwords."""
    words: list[str] = WordListCorpusReader(nltk_root(found), ["english"]).words()
    return words


def wordnet_synonyms(found: Found, word: str) -> list[str]:
    """The lemmas that share a synset with ``word``, in alphabetical order."""
    return sorted(
        {name for synset in _reader(found).synsets(word) for name in synset.lemma_names()} - {word}
    )


class _EnglishWordNet(WordNetCorpusReader):
    """NLTK's reader without the two seconds it spends on preparing for other languages."""

    def map_wn(self, version: str = "wordnet") -> None:
        """No mapping of senses to other versions, which only other languages need."""


@lru_cache
def _reader(wordnet: Found) -> _EnglishWordNet:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions")
        return _EnglishWordNet(nltk_root(wordnet), None)
