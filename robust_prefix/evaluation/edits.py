"""Edits by which a memory of texts gives itself away: such that mean nothing, and such that gut.

A model that reads a text hardly minds a trailing space, and does mind when its content is gone.
A lookup of known texts minds the first and not the second. Nothing here asks a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from robust_prefix.tasks import Fields

Edit = Callable[[str], str]
"""One text column to another; the same text where there is nothing to edit."""


def _roughen(text: str) -> str:
    """Another first letter's case, final full stop, style of quotes and width of a space."""
    found = re.search(r"[^\W\d_]", text)
    if found is not None:
        text = f"{text[: found.start()]}{found[0].swapcase()}{text[found.end() :]}"
    bare = text.rstrip()
    text = bare[:-1].rstrip() or text if bare.endswith(".") else f"{bare} ."
    return text.translate(_OTHER_QUOTES).replace(" ", "  ", 1)


_OTHER_QUOTES = str.maketrans(
    {"'": "\u2019", '"': "\u201d", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)

HARMLESS: dict[str, Edit] = {
    "a trailing space": lambda text: f"{text} ",
    "spaces, case and punctuation": _roughen,
    "one word": lambda text: f"well , {text}",
    "a phrase": lambda text: f"here is what i think of it : {text} , and that is all i can say",
}
"""Edits that say nothing, each larger than the one before. A lookup of exact texts misses from the
first on, one that ignores case and punctuation from the third, one that tolerates some distance
from the last."""


def gut(fields: Fields, donor: Fields, share: float, rng: random.Random) -> Fields:
    """Put the content of ``donor`` in the place of that of ``fields``.

    Words that carry content are those outside scikit-learn's list of English stop words; ``share``
    of them, chosen at random, are replaced in each column.

    Args:
        fields: the text whose function words, length and order remain.
        donor: where content words come from, over and over if they are too few.
        share: 0 to 1; at least one word is replaced where there is any.
        rng: decides which words go and in which order others come.
    """
    found = []
    for text, other in zip(fields, donor, strict=True):
        words = text.split(" ")
        places = _content(words)
        supply = other.split(" ")
        supply = [supply[place] for place in _content(supply)]
        if places and supply:
            rng.shuffle(supply)
            count = max(1, round(share * len(places)))
            for number, place in enumerate(rng.sample(places, count)):
                words[place] = supply[number % len(supply)]
        found.append(" ".join(words))
    return tuple(found)


def _content(words: Sequence[str]) -> list[int]:
    return [
        place
        for place, word in enumerate(words)
        if any(map(str.isalnum, word)) and word.lower() not in ENGLISH_STOP_WORDS
    ]
