"""What a word is, and where words are in a text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from robust_prefix.tasks import Fields

# Letters, with apostrophes and hyphens inside: the rest of the text stays as it is.
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def word_places(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each of ``words``, which follow one another in ``text``.

    A word that is not found, as where TextAttack's splitting of Chinese misleads it, gets an empty
    place.
    """
    places, after = [], 0
    for word in words:
        start = text.find(word, after)
        if start < 0:
            places.append((after, after))
            continue
        after = start + len(word)
        places.append((start, after))
    return places


def places_in_columns(fields: Fields, words: Sequence[str]) -> list[tuple[int, int, int]]:
    """Column, and start and end in its text, of each of ``words``, which TextAttack found.

    TextAttack reads the columns as lines of one text.
    """
    begins = [0]
    for text in fields[:-1]:
        begins.append(begins[-1] + len(text) + 1)
    found = []
    for start, end in word_places("\n".join(fields), words):
        column = bisect_right(begins, start) - 1
        found.append((column, start - begins[column], end - begins[column]))
    return found
