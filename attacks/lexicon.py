"""The synonyms that attacks draw from, for training against them and for taking them away."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from attacks.resources import find_resource, require_package
from attacks.resources.neighbors import load_neighbors, match_case, neighbors_of
from robust_prefix.errors import unknown_name

SOURCES = ("wordnet", "counterfitted-neighbors")

_ONE_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def synonyms(
    data_dir: str | Path | None = None, sources: Sequence[str] = SOURCES
) -> Callable[[str], tuple[str, ...]]:
    """What may stand for a word, in its case: the union of the word lists, without the stopwords.

    ``wordnet`` is what PWWS draws from, ``counterfitted-neighbors`` what TextFooler and the like
    draw from.

    Args:
        data_dir: where to look for the lists first.
        sources: the lists, by their names in ``attacks.resources``.

    Raises:
        ConfigError: a source is unknown.
        ResourceError: a list is missing; the message says how to get it.
    """
    for name in sources:
        if name not in SOURCES:
            raise unknown_name("source of synonyms", name, SOURCES)
    require_package("nltk")
    from attacks.resources.wordnet import english_stopwords, wordnet_synonyms

    found = {name: find_resource(name, data_dir) for name in sources}
    stopwords = frozenset(english_stopwords(find_resource("stopwords", data_dir)))

    @cache
    def substitutes(word: str) -> tuple[str, ...]:
        if word.lower() in stopwords:
            return ()
        words: list[str] = []
        if "wordnet" in found:
            names = wordnet_synonyms(found["wordnet"], word.lower())
            words += [match_case(name, word) for name in names if _ONE_WORD.fullmatch(name)]
        if "counterfitted-neighbors" in found:
            near = neighbors_of(word, load_neighbors(found["counterfitted-neighbors"]))
            words += [name for name in near if _ONE_WORD.fullmatch(name)]
        return tuple(name for name in dict.fromkeys(words) if name != word)

    return substitutes
