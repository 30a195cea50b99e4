"""Normalisation: characters that look like others, and misspellings, are written as usual.

Invisible characters, look-alikes and reorderings: Boucher et al., IEEE S&P 2022, "Bad Characters".
A spell checker before the classifier: Pruthi et al., ACL 2019, "Combating Adversarial Misspellings
with Robust Word Recognition", who train one; here it is SymSpell with its English frequency list.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.characters import as_compatible, as_latin
from robust_prefix.defenses.text import Rewritten, TextDefense

if TYPE_CHECKING:
    from symspellpy import SymSpell

# Letters, with apostrophes and hyphens inside.
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# What a letter may have been split off from: "it 's" and "25s" are written so.
_FREE = re.compile(rf"(?<![\w'\u2019-])(?:{_WORD.pattern})(?![\w'\u2019-])")


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
        if rewritten.text.isascii():
            return rewritten
        usual = as_latin if self.config.characters == "latin" else as_compatible
        changed = []
        for place, character in enumerate(rewritten.text):
            plain = usual(character)
            if plain != character:
                changed.append((place, place + 1, plain))
        return rewritten.replace(changed)

    def _joined(self, rewritten: Rewritten) -> Rewritten:
        """Two neighbours that are no words, but one word together, are joined."""
        known = _english(self.config.max_edits).words
        words = list(_FREE.finditer(rewritten.text))
        joined, skip = [], False
        for first, second in pairwise(words):
            if skip:
                skip = False
                continue
            one, two = first.group().lower(), second.group().lower()
            apart = rewritten.text[first.end() : second.start()]
            strange = not _is_word(one, known) or not _is_word(two, known)
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
