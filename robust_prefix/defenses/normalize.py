"""Normalisation: characters that look like others, and misspellings, are written as usual.

Invisible characters, look-alikes and reorderings: Boucher et al., IEEE S&P 2022, "Bad Characters".
A spell checker before the classifier: Pruthi et al., ACL 2019, "Combating Adversarial Misspellings
with Robust Word Recognition", who train one; here it is SymSpell with its English frequency list.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.defenses.text import Rewritten, TextDefense

if TYPE_CHECKING:
    from symspellpy import SymSpell

# Letters, with apostrophes and hyphens inside.
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_LETTER = re.compile(r"LATIN (SMALL|CAPITAL) LETTER (?:[A-Z]+ )*?([A-Z])\b")


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class NormalizeConfig:
    """Settings of the normalisation.

    Attributes:
        characters: ``latin`` writes every look-alike of a Latin letter as that letter, accents
            included; ``compatible`` only does away with compatibility forms and what is invisible,
            which is lossless for every script; ``keep`` changes none.
        spelling: ``en`` corrects words that the English list lacks; ``none`` corrects none.
        max_edits: letters that a correction may add, drop, change or swap.
        min_letters: shorter words are not corrected.
    """

    characters: Literal["latin", "compatible", "keep"] = "latin"
    spelling: Literal["en", "none"] = "en"
    max_edits: int = Field(default=1, ge=1, le=2)
    min_letters: int = Field(default=3, ge=1)


class Normalize(TextDefense[NormalizeConfig]):
    """Characters, then spelling. The record of an attack keeps the text as it was."""

    name = "normalize"
    summary = "writes look-alike characters and misspelt words as usual"
    stage = 0
    config_type = NormalizeConfig

    def rewrite(self, text: str) -> Rewritten:
        """See ``TextDefense``."""
        rewritten = Rewritten.of(text)
        if self.config.characters != "keep":
            rewritten = self._plain_characters(rewritten)
        if self.config.spelling != "none":
            rewritten = self._joined(rewritten)
            rewritten = self._corrected(rewritten)
        return rewritten

    def _plain_characters(self, rewritten: Rewritten) -> Rewritten:
        latin = self.config.characters == "latin"
        changed = []
        for place, character in enumerate(rewritten.text):
            plain = _plain(character, latin)
            if plain != character:
                changed.append((place, place + 1, plain))
        return rewritten.replace(changed)

    def _joined(self, rewritten: Rewritten) -> Rewritten:
        """Two neighbours that are no words, but one word together, are joined."""
        known = _english(self.config.max_edits).words
        words = list(_WORD.finditer(rewritten.text))
        joined, skip = [], False
        for first, second in pairwise(words):
            if skip:
                skip = False
                continue
            one, two = first.group().lower(), second.group().lower()
            apart = rewritten.text[first.end() : second.start()]
            strange = not _is_word(one, known) or not _is_word(two, known)
            # a contraction's halves ("did n't") are no letters that were pushed apart
            if apart == " " and strange and (one + two).isalpha() and one + two in known:
                joined.append((first.end(), second.start(), ""))
                skip = True
        return rewritten.replace(joined)

    def _corrected(self, rewritten: Rewritten) -> Rewritten:
        changed = []
        for match in _WORD.finditer(rewritten.text):
            word = match.group()
            if len(word) >= self.config.min_letters:
                correction = _correction(word.lower(), self.config.max_edits)
                if correction != word.lower():
                    changed.append((match.start(), match.end(), _in_case_of(word, correction)))
        return rewritten.replace(changed)


@cache
def _plain(character: str, latin: bool) -> str:
    """One character as usual: nothing for one that is not seen."""
    if character.isascii():
        return character
    if unicodedata.category(character) in ("Cf", "Mn", "Me") and (
        latin or unicodedata.category(character) == "Cf"
    ):
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if not latin:
        return plain
    base = unicodedata.normalize("NFKD", plain)
    base = "".join(c for c in base if unicodedata.category(c) != "Mn")
    return "".join(_latin(c) for c in base)


def _latin(character: str) -> str:
    """The Latin letter that a character is a form of, by its name, or looks like, by UTS #39."""
    if character.isascii():
        return character
    match = _LETTER.match(unicodedata.name(character, ""))
    if match:
        return match[2].lower() if match[1] == "SMALL" else match[2]
    for other in _confusables().get(character, ()):
        if other.isascii() and len(other) == 1 and other.isalpha():
            return other
    return character


@cache
def _confusables() -> dict[str, list[str]]:
    from confusable_homoglyphs.confusables import confusables_data

    return {
        character: [entry["c"] for entry in entries]
        for character, entries in confusables_data.items()
    }


@cache
def _english(max_edits: int) -> SymSpell:
    from symspellpy import SymSpell

    checker = SymSpell(max_dictionary_edit_distance=max_edits)
    path = resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    checker.load_dictionary(path, term_index=0, count_index=1)
    return checker


def _is_word(word: str, known: dict[str, int]) -> bool:
    # single letters are in the list, as initials; in a text only these stand alone
    return word in known and (len(word) > 1 or word in ("a", "i"))


@cache
def _correction(word: str, max_edits: int) -> str:
    from symspellpy import Verbosity

    checker = _english(max_edits)
    if not word.isalpha() or word in checker.words:
        return word  # what holds an apostrophe or a hyphen is not in the list as such
    found = checker.lookup(word, Verbosity.TOP, max_edit_distance=max_edits)
    return str(found[0].term) if found else word


def _in_case_of(word: str, correction: str) -> str:
    if len(word) > 1 and word.isupper():
        return correction.upper()
    return correction[:1].upper() + correction[1:] if word[:1].isupper() else correction
