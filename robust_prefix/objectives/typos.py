"""Typing errors: one letter swapped, dropped, added or hit beside on the keyboard."""

from __future__ import annotations

import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _beside() -> dict[str, str]:
    """The keys around each key of a QWERTY keyboard, whose rows are half a key apart."""
    places = {
        letter: (row, column + 0.5 * row)
        for row, letters in enumerate(_ROWS)
        for column, letter in enumerate(letters)
    }
    return {
        letter: "".join(
            other
            for other, (row, column) in places.items()
            if other != letter and abs(row - here[0]) <= 1 and abs(column - here[1]) <= 1
        )
        for letter, here in places.items()
    }


BESIDE = _beside()
"""Letters a finger may hit instead, for each lower-case letter."""


def typos(word: str, count: int, rng: np.random.Generator) -> list[str]:
    """At most ``count`` different misspellings of ``word``, none of them the word itself.

    Words of fewer than three letters have none: they would turn into other words.
    """
    found = dict.fromkeys(_typo(word, rng) for _ in range(count if len(word) > 2 else 0))
    found.pop(word, None)
    return list(found)


def _typo(word: str, rng: np.random.Generator) -> str:
    kind = int(rng.integers(4))
    place = int(rng.integers(len(word)))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    if kind == 0:  # swapped with the next
        return before + after[:1] + letter + after[1:]
    if kind == 1:  # dropped
        return before + after
    near = BESIDE.get(letter.lower(), letter)
    hit = near[int(rng.integers(len(near)))]
    hit = hit.upper() if letter.isupper() else hit
    return before + letter + hit + after if kind == 2 else before + hit + after
