"""Swaps that should change no answer. Imports TextAttack: import it only from a recipe.

The words come from the lists inside TextAttack. Which words are names is told by these lists and
by the capitals around them, in place of a recogniser that TextAttack downloads.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from num2words import num2words
from textattack.shared.data import EXTENSION_MAP, NAMED_ENTITIES, PERSON_NAMES
from textattack.transformations import Transformation, WordSwap

from attacks.resources.neighbors import match_case

_CONTRACTIONS = {long: short for short, long in EXTENSION_MAP.items() if long.count(" ") == 1}
_FIRST, _LAST = frozenset(PERSON_NAMES["first"]), frozenset(PERSON_NAMES["last"])
_PLACES = {kind: frozenset(NAMED_ENTITIES[kind]) for kind in ("country", "nationality", "city")}
_LONGEST_PLACE = 3  # words: "Papua New Guinea"
# In a text without capitals these are taken for places, but for those that are words as well;
# cities are not, for there is a Nice, a Reading and a Mobile.
_LOWER_CASE_PLACES = ("country", "nationality")
_WORDS_AS_WELL = frozenset({"chad", "china", "guinea", "jordan", "lao", "polish", "turkey"})
_NUMBERS = {num2words(number): number for number in range(101)}
# "two" and "four" are left alone as by the authors, to whom "2" and "4" are words in chats.
_KEPT_NUMBERS = (0, 2, 4)
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n])[^\w]*$")


class ContractionSwap(Transformation):
    """Two words by their contraction and the other way round: "it is" and "it's"."""

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        words, allowed = current_text.words, set(indices_to_modify)
        found = []
        for index in sorted(allowed):
            word = words[index]
            if word.lower() in EXTENSION_MAP:
                long = match_case(EXTENSION_MAP[word.lower()], word)
                found.append(current_text.replace_word_at_index(index, long))
            pair = " ".join(words[index : index + 2])
            short = _CONTRACTIONS.get(pair.lower())
            if short and index + 1 in allowed and pair in current_text.text:
                swap = [match_case(short, word), ""]
                found.append(current_text.replace_words_at_indices([index, index + 1], swap))
        return found


class NumberSwap(WordSwap):
    """Numbers in digits, and those up to a hundred in one word, by others of their size.

    Args:
        draws: how many others are drawn.
    """

    def __init__(self, draws: int) -> None:
        super().__init__()
        self._draws = draws

    def _get_replacement_words(self, word: str) -> list[str]:
        digits = word.isdecimal()
        number = int(word) if digits else _NUMBERS.get(word.lower())
        if number is None or number in _KEPT_NUMBERS:
            return []
        # From 1 to twice the number, as in TextAttack.
        drawn = [random.randrange(1, 2 * number + 1) for _ in range(self._draws)]
        return [str(n) if digits else match_case(num2words(n), word) for n in drawn]


class NameSwap(WordSwap):
    """First names by first names, last names behind a first name by last names.

    A name is a capitalised word of the list. At the start of a sentence, where any word has a
    capital, it must have a last name behind it.

    Args:
        draws: how many others are drawn.
    """

    def __init__(self, draws: int) -> None:
        super().__init__()
        self._draws = draws

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        words = [*current_text.words, ""]
        found = []
        for index in sorted(indices_to_modify):
            names = None
            if words[index] in _LAST and index > 0 and words[index - 1] in _FIRST:
                names = PERSON_NAMES["last"]
            elif words[index] in _FIRST and (
                words[index + 1] in _LAST
                or not _SENTENCE_START.search(current_text.text_until_word_index(index))
            ):
                names = PERSON_NAMES["first"]
            if names:
                drawn = random.sample(names, self._draws)
                found += [current_text.replace_word_at_index(index, name) for name in drawn]
        return found


class LocationSwap(WordSwap):
    """Countries, nationalities and cities by others.

    They are written with capitals, or the whole text has none; then cities are left alone.

    Args:
        draws: how many others are drawn.
    """

    def __init__(self, draws: int) -> None:
        super().__init__()
        self._draws = draws

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        cased = current_text.text != current_text.text.lower()
        found = []
        for place, kind in _places(current_text.words, set(indices_to_modify), cased):
            for name in random.sample(NAMED_ENTITIES[kind], self._draws):
                # The place's other words go: the new one may have more words or fewer.
                new = [name if cased else name.lower(), *[""] * (len(place) - 1)]
                found.append(current_text.replace_words_at_indices(place, new))
        return found


def _places(words: list[str], allowed: set[int], cased: bool) -> Iterator[tuple[list[int], str]]:
    """Indices and kind of each place's name, the longest that begins at a word."""
    behind = 0
    for start in sorted(allowed):
        for length in range(_LONGEST_PLACE, 0, -1):
            place = list(range(start, start + length))
            if start < behind or not allowed.issuperset(place):
                continue
            name = " ".join(words[start : start + length])
            kind = _kind(name, cased)
            if kind is not None:
                yield place, kind
                behind = start + length
                break


def _kind(name: str, cased: bool) -> str | None:
    if not cased and name in _WORDS_AS_WELL:
        return None
    kinds = tuple(_PLACES) if cased else _LOWER_CASE_PLACES
    written = name if cased else name.title()
    return next((kind for kind in kinds if written in _PLACES[kind]), None)
