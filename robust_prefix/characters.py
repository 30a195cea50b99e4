"""Characters as a reader takes them: a sign that is a Latin letter in disguise is that letter.

Its Unicode name often says which: "PARENTHESIZED LATIN SMALL LETTER S", "LATIN LETTER SMALL
CAPITAL K". Of the others the table of UTS #39 (Unicode Security Mechanisms) knows many.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_UNSEEN = ("Cf", "Mn", "Me")  # format characters, and marks on the letter before
_NAMED = re.compile(r"\bLATIN\b|^MODIFIER LETTER\b|^SUPERSCRIPT\b|^SUBSCRIPT\b")
_CASE = re.compile(r"\b(SMALL|CAPITAL)\b")  # the first tells: a small capital is small
_ALONE = re.compile(r"(?<![\w-])[A-Z](?![\w-])")
_LIGATURE = re.compile(r"LATIN (?:SMALL|CAPITAL) (?:LETTER|LIGATURE) ([AO][AEOUVY])\b")
# Look-alikes of which neither tells, or tells wrongly.
_OTHERS = dict(zip("ŋŊəĸɒɤηþÞϸðÐƅ\u04cf₥₩₭", "nNekaynpPpdDblmWK", strict=True))


@cache
def as_latin(character: str) -> str:
    """The letters that a character stands for; nothing for one that is not seen.

    What no Latin letter is meant by is written in its compatibility form (NFKC).
    """
    if character.isascii():
        return character
    if unicodedata.category(character) in _UNSEEN:
        return ""
    name = unicodedata.name(character, "")
    letter = _named(name) or _OTHERS.get(character) or _lookalike(character)
    if letter is not None:
        return letter
    simpler = unicodedata.normalize("NFKD", character)
    if _is_spacing_mark(character, simpler):
        return character
    if simpler != character:
        read = "".join(as_latin(one) for one in simpler)
        return read if read.isascii() else unicodedata.normalize("NFKC", character)
    # "CYRILLIC SMALL LETTER HA WITH DESCENDER" looks like what the letter without it does.
    bare = _by_name(name.split(" WITH ")[0])
    read = as_latin(bare) if bare not in ("", character) else character
    return read if read.isascii() else character


@cache
def as_compatible(character: str) -> str:
    """The compatibility form of a character (NFKC); nothing for a format character."""
    if unicodedata.category(character) == "Cf":
        return ""
    simpler = unicodedata.normalize("NFKC", character)
    return character if _is_spacing_mark(character, simpler) else simpler


def _is_spacing_mark(character: str, simpler: str) -> bool:
    """Whether it is a mark that stands by itself, such as a diaeresis, of which the compatibility
    form makes a space with the mark over it: that would split the word around it."""
    return simpler[:1] == " " and not character.isspace()


def _named(name: str) -> str | None:
    """The letter that a name says, where it says one and in which case."""
    case = _CASE.search(name)
    if case is None or not _NAMED.search(name):
        return None
    alone, ligature = _ALONE.findall(name), _LIGATURE.match(name)
    letters = alone[0] if len(alone) == 1 else ligature[1] if ligature and not alone else None
    return letters.lower() if letters and case[1] == "SMALL" else letters


def _lookalike(character: str) -> str | None:
    if character.isdigit():
        return None  # a bold 1 is no l
    letters = [
        other
        for other in _confusables().get(character, ())
        if other.isascii() and other.isalpha() and len(other) == 1
    ]
    if not letters:
        return None
    # To the table a capital I is a small l.
    return "I" if letters[0] == "l" and character.isupper() else letters[0]


def _by_name(name: str) -> str:
    try:
        return unicodedata.lookup(name)
    except KeyError:
        return ""


@cache
def _confusables() -> dict[str, list[str]]:
    from confusable_homoglyphs.confusables import confusables_data

    return {
        character: [entry["c"] for entry in entries]
        for character, entries in confusables_data.items()
    }
