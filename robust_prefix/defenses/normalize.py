"""Normalisation: characters that look like others, and misspellings, are written as usual.

Invisible characters and look-alikes: Boucher et al., IEEE S&P 2022, "Bad Characters"; of their
reorderings and deletions the control characters go, and what was swapped or is to be deleted stays,
for the spelling to correct if it can.
A spell checker before the classifier: Pruthi et al., ACL 2019, "Combating Adversarial Misspellings
with Robust Word Recognition", who train one; here it is SymSpell with its English frequency list,
and the words of the task where they were counted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.characters import as_compatible, as_latin
from robust_prefix.defenses.base import Defense, Fitted
from robust_prefix.defenses.text import TextDefense
from robust_prefix.errors import ArtifactError
from robust_prefix.rewriting import Rewritten
from robust_prefix.spelling import NOT, Speller, english
from robust_prefix.vocabulary import Vocabulary

# Letters, with apostrophes and hyphens inside.
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# Signs that are typed for an apostrophe, where they stand between letters.
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])[`\u00b4\u2018\u02bc\u2032](?=[^\W\d_])")
# What a letter may have been split off from: "it 's" and "25s" are written so.
_FREE = re.compile(rf"(?<![\w'\u2019-])(?:{_WORD.pattern})(?![\w'\u2019-])")


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class NormalizeConfig:
    """Settings of the normalisation.

    Attributes:
        characters: ``latin`` writes every look-alike of a Latin letter as that letter, accents
            included; ``compatible`` only does away with compatibility forms (NFKC) and what is
            invisible, which leaves the letters of every script, though not all that its writing
            tells apart: a superscript, or a joiner in Persian; ``keep`` changes none.
        spelling: ``en`` corrects words that the English list lacks, or the task where its words
            were counted, and those with a capital in the midst of small letters, by what stands
            beside them; ``none`` corrects none.
        max_edits: letters that a correction may add, drop, change or swap.
        min_letters: shorter words are not corrected.
        vocabulary: fingerprint of the words of the training texts that corrections lead to before
            others, so that a record says which; of those at hand. With ``none`` the English list
            alone counts.
    """

    characters: Literal["latin", "compatible", "keep"] = "latin"
    spelling: Literal["en", "none"] = "en"
    max_edits: int = Field(default=1, ge=1, le=2)
    min_letters: int = Field(default=3, ge=1)
    vocabulary: str | None = None


class Normalize(TextDefense[NormalizeConfig]):
    """Characters, then spelling. The record of an attack keeps the text as it was.

    Args:
        inner: see ``WrappingDefense``.
        words: those of the task, where they were counted.

    Raises:
        ArtifactError: the settings name another vocabulary.
    """

    name = "normalize"
    summary = "writes look-alike characters and misspelt words as usual"
    stage = 0
    config_type = NormalizeConfig

    def __init__(
        self,
        inner: Defense[Any] | None = None,
        words: Vocabulary | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(inner, **settings)
        asked = self.config.vocabulary
        if self.config.spelling == "none" or asked == "none":
            words = None
        found = None if words is None else words.fingerprint
        if asked not in (None, "none", found):
            raise ArtifactError(
                f"expected the vocabulary {asked} for the defence {self.name!r}, got "
                f"{found or 'none'}; run robust-prefix fit-spelling on the run, or leave out "
                "vocabulary="
            )
        # In the settings, and so in every record.
        self.config = dataclasses.replace(self.config, vocabulary=found or asked)
        self.words = words
        self.built_from = Fitted(vocabulary=words)
        if words is not None and self.config.characters != "keep":
            self.words = words.written(self._usual)  # as texts are when they are looked up

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(inner, fitted.vocabulary, **settings)

    @property
    def _speller(self) -> Speller:
        return english(self.config.max_edits, self.words)

    def rewrite(self, text: str) -> Rewritten:
        """See ``TextDefense``."""
        rewritten = Rewritten.of(text)
        if self.config.characters != "keep":
            # before what is a letter's look-alike is read as that letter
            signs = [(*found.span(), "'") for found in _APOSTROPHE.finditer(rewritten.text)]
            rewritten = self._plain_characters(rewritten.replace(signs))
        if self.config.spelling != "none":
            rewritten = self._negated(rewritten)
            rewritten = self._joined(rewritten)
            rewritten = self._corrected(rewritten)
        return rewritten

    @property
    def _usual(self) -> Callable[[str], str]:
        return as_latin if self.config.characters == "latin" else as_compatible

    def _plain_characters(self, rewritten: Rewritten) -> Rewritten:
        if rewritten.text.isascii():
            return rewritten
        usual = self._usual
        changed = []
        for place, character in enumerate(rewritten.text):
            plain = usual(character)
            if plain != character:
                changed.append((place, place + 1, plain))
        return rewritten.replace(changed)

    def _negated(self, rewritten: Rewritten) -> Rewritten:
        """What follows a verb is ``n't`` that was meant to be."""
        speller = self._speller
        words = list(re.finditer(r"\S+", rewritten.text))
        return rewritten.replace(
            [
                (word.start(), word.end(), NOT)
                for verb, word in pairwise(words)
                if len(word.group()) <= len(NOT) + 1 and speller.negates(word.group(), verb.group())
            ]
        )

    def _joined(self, rewritten: Rewritten) -> Rewritten:
        """Two neighbours are joined that are rather one word, split."""
        speller = self._speller
        words = list(_FREE.finditer(rewritten.text))
        joined, skip = [], False
        for first, second in pairwise(words):
            if skip:
                skip = False
                continue
            apart = rewritten.text[first.end() : second.start()]
            if apart == " " and speller.joins(first.group().lower(), second.group().lower()):
                joined.append((first.end(), second.start(), ""))
                skip = True
        return rewritten.replace(joined)

    def _corrected(self, rewritten: Rewritten) -> Rewritten:
        speller = self._speller
        text = rewritten.text
        words = [(match.start(), match.end(), match.group()) for match in _WORD.finditer(text)]
        # Where the text begins with a small letter, no word is to begin with a capital.
        uncased = bool(words) and words[0][2][0].islower()
        changed: list[tuple[int, int, str]] = []
        left, left_end = "", -1
        for place, (start, end, word) in enumerate(words):
            correction = word
            lower = word.lower()
            following = words[place + 1][2].lower() if place + 1 < len(words) else ""
            cut = speller.lost_apostrophe(lower, following)  # "doesn t" is no slip for "does t"
            if len(word) >= self.config.min_letters and word.isalpha() and not cut:
                if word != lower or not speller.knows(lower):
                    before = left if text[left_end:start] == " " else ""
                    after = ""
                    if following and text[end : words[place + 1][0]] == " ":
                        after = following
                    correction = speller.correction(word, before, after, uncased)
                if correction != word:
                    changed.append((start, end, correction))
            left, left_end = correction.lower(), end
        return rewritten.replace(changed)
