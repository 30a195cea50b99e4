"""Edits of a text that a reader does not see.

Boucher, Shumailov, Anderson, Papernot. Bad Characters: Imperceptible NLP Attacks. IEEE Symposium
on Security and Privacy 2022. https://arxiv.org/abs/2106.09898
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attacks.lookalikes import LOOKALIKES
from robust_prefix.tasks import Fields

# Zero width space, non-joiner and joiner.
_INVISIBLE = "\u200b\u200c\u200d"
_BACKSPACE = "\b"
_DELETED = [chr(code) for code in range(ord("!"), ord("~") + 1)]
# Bidirectional controls: override, isolate, pop of each (UAX #9).
_LRO, _RLO, _LRI, _PDF, _PDI = "\u202d", "\u202e", "\u2066", "\u202c", "\u2069"


@dataclass(frozen=True)
class Edit:
    """What comes in the place of ``fields[column][start:end]``."""

    column: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Kind:
    """One of the paper's four kinds of edits.

    Attributes:
        places: where in a text it may be made.
        options: how many ways there are at each place.
        make: end and new text of the edit at a place, the number of the way given.
    """

    places: Callable[[str], Iterable[int]]
    options: int
    make: Callable[[str, int, int], tuple[int, str]]


def _swapped(text: str, place: int, _: int) -> tuple[int, str]:
    """Two letters in the wrong order, which the controls around them show in the right one."""
    shown_second, shown_first = text[place + 1], text[place]
    return place + 2, (
        f"{_LRO}{_LRI}{_RLO}{_LRI}{shown_second}{_PDI}{_LRI}{shown_first}{_PDI}{_PDF}{_PDI}{_PDF}"
    )


KINDS = {
    "invisible": Kind(
        lambda text: range(len(text)),
        len(_INVISIBLE),
        lambda text, place, option: (place, _INVISIBLE[option]),
    ),
    "homoglyphs": Kind(
        lambda text: (place for place, letter in enumerate(text) if letter in LOOKALIKES),
        1,
        lambda text, place, option: (place + 1, LOOKALIKES[text[place]]),
    ),
    "reorderings": Kind(lambda text: range(len(text) - 1), 1, _swapped),
    "deletions": Kind(
        lambda text: range(len(text)),
        len(_DELETED),
        lambda text, place, option: (place, _DELETED[option] + _BACKSPACE),
    ),
}


def apply_edits(fields: Fields, edits: Iterable[Edit]) -> Fields:
    """``fields`` after ``edits``; of two that overlap the one further back is made."""
    changed = list(fields)
    untouched = [len(text) for text in fields]  # up to here
    ordered = sorted(edits, key=lambda e: (e.column, e.start, e.end, e.text), reverse=True)
    for edit in ordered:
        if edit.end <= untouched[edit.column]:
            text = changed[edit.column]
            changed[edit.column] = text[: edit.start] + edit.text + text[edit.end :]
            untouched[edit.column] = edit.start
    return tuple(changed)
