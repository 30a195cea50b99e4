"""English spelling: which word a misspelt one was meant to be.

A noisy channel (Kernighan, Church, Gale, COLING 1990): of the words that a few edits lead to, the
one likeliest beside its neighbours, times how likely the edits are. Words and pairs of words, and
how often each is written, come with SymSpell. American spellings that its list lacks, in
``american.txt``, count as often as the British ones beside them.

Where the words of a task are known, it is likelier that one of them was meant than another of the
list, and a listed word that the task's texts never had may be a slip for one that they have.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import resources

from robust_prefix.vocabulary import Vocabulary

NOT = "n't"
"""As the Penn Treebank, and the corpora made of it, write it: a word by itself."""

_NEGATED = frozenset(
    (
        *("ai", "are", "ca", "could", "did", "do", "does", "had", "has", "have", "is"),
        *("might", "must", "need", "should", "was", "were", "wo", "would"),
    )
)
_PUNCTUATION = '.,:;!?()[]"*-'
# Brackets as the Penn Treebank writes them, and the corpora made of it.
_BRACKETS = frozenset({"lrb", "rrb", "lsb", "rsb", "lcb", "rcb"})
_PAIR_SCALE = 64  # SymSpell's counts of pairs are this many times those of its words
# These were chosen on SST-2's dev split: what is restored of DeepWordBug's edits, and what is
# damaged of the clean text.
_PAIR_SHARE = 0.6  # the weight of pairs in how likely a word is beside another
_STRANGE, _STRANGE_LETTER = 4.0, 2.8  # how unlikely a word of no list is, a name say (log)
_ANY_LETTER = math.log(52)  # a letter that was put in may be any, small or capital
_TASK_SHARE = 0.8  # the weight of a task's own words in how likely a word is
_SLIP = 3.0  # how unlikely a listed word that the task never had is a slip (log)
_TWICE = 2  # a word that a task has and the list has not is none by mistake


class Speller:
    """Words as the English list has them, and a task's texts.

    Args:
        max_edits: letters that a correction may add, drop, change or swap.
        vocabulary: the words of the task; the list's alone where not given.
    """

    def __init__(self, max_edits: int, vocabulary: Vocabulary | None = None) -> None:
        from symspellpy import SymSpell
        from symspellpy.editdistance import DistanceAlgorithm, EditDistance

        self._max_edits = max_edits
        self._distance = EditDistance(DistanceAlgorithm.DAMERAU_OSA)
        self._checker = SymSpell(max_dictionary_edit_distance=max_edits)
        lists = resources.files("symspellpy")
        self._checker.load_dictionary(
            lists / "frequency_dictionary_en_82_765.txt", term_index=0, count_index=1
        )
        self._checker.load_bigram_dictionary(
            lists / "frequency_bigramdictionary_en_243_342.txt", term_index=0, count_index=2
        )
        american = resources.files("robust_prefix") / "american.txt"
        for line in american.read_text(encoding="utf-8").splitlines():
            word, british = line.split()
            self._checker.create_dictionary_entry(word, self._checker.words[british])
        self._listed = dict(self._checker.words)
        self._total = sum(self._listed.values())
        self._vocabulary = vocabulary if vocabulary is not None and vocabulary.counts else None
        if self._vocabulary is not None:
            for word, count in self._vocabulary.counts.items():
                if count >= _TWICE and word not in self._listed:
                    self._checker.create_dictionary_entry(word, count)
        # An attack asks about texts that differ in few words: the same come again and again.
        self.correction = lru_cache(maxsize=2**16)(self._correction)
        self._candidates = lru_cache(maxsize=2**14)(self._find_candidates)

    def knows(self, word: str) -> bool:
        """Whether a word, in small letters, stands as it is."""
        seen = self._vocabulary is None or word in self._vocabulary.counts
        return word in _BRACKETS or (seen and word in self._checker.words)

    def negates(self, word: str, left: str) -> bool:
        """Whether a word is meant to be ``n't``, mistyped by one edit.

        Args:
            word: as it is written, with all that stands between white space.
            left: the word before it.
        """
        lower = word.lower()
        meant = lower.strip(_PUNCTUATION) == NOT  # and a comma after it is no edit
        if left.lower() not in _NEGATED or self._is_word(lower) or meant:
            return False
        return self._distance.compare(word, NOT, 1) == 1

    def lost_apostrophe(self, word: str, right: str) -> bool:
        """Whether a word, in small letters, is ``doesn`` or the like before a ``t`` that stands by
        itself."""
        return right == "t" and word[-1:] == "n" and word[:-1] in _NEGATED

    def joins(self, one: str, two: str) -> bool:
        """Whether two words, in small letters, are rather one that was split."""
        both = one + two
        known = self.knows(one) and self.knows(two)
        if known or len(both) < 3 or not both.isalpha() or both not in self._checker.words:
            return False
        likely = self._log_share(both)
        if self._is_word(one) and self._is_word(two):  # though the task never had one of them
            if not self.knows(both):
                return False
            likely -= _SLIP
        return likely > self._log_share(one) + self._log_share(two)

    def _is_word(self, word: str) -> bool:
        """Whether it is one, in the task or not."""
        return word in self._checker.words or word in _BRACKETS

    def _correction(self, word: str, left: str, right: str, uncased: bool) -> str:
        """What was meant by a word of letters alone: the same, or another.

        A capital where none belongs came with an edit, whose letter it is.

        Args:
            word: as it is written.
            left: the word before it, in small letters; empty without one.
            right: the word after it.
            uncased: whether words of this text begin with small letters.
        """
        typed = word.lower()
        capital = _stray_capital(word, uncased)
        if capital == 0 and self._is_word(typed):  # a name may be a word, too
            return word
        if capital is None and self.knows(typed):
            return word
        candidates = self._candidates(typed)
        least = self._log_share(typed)
        if self._is_word(typed):  # but none of the task: a slip for one that is, if any
            candidates = [one for one in candidates if self.knows(one[0])]
            least += _SLIP + self._log_beside(left, typed) + self._log_beside(typed, right)
        if capital is not None:
            explain = [one for one in candidates if _explains(one[0], word, capital, uncased)]
            if explain or self._max_edits == 1:  # of two edits the capital may be either
                candidates, least = explain, -math.inf
        best = word
        for candidate, cost in candidates:
            likely = self._log_share(candidate) - cost
            likely += self._log_beside(left, candidate) + self._log_beside(candidate, right)
            if likely > least:
                least, best = likely, candidate
        return best if best == word else _in_case_of(word, best, uncased)

    def _find_candidates(self, typed: str) -> list[tuple[str, float]]:
        """Words within the edits, each with how unlikely the edits are."""
        from symspellpy import Verbosity

        found = self._checker.lookup(typed, Verbosity.ALL, max_edit_distance=self._max_edits)
        return [
            (one.term, _log_cost(one.term, typed, one.distance))
            for one in found
            if one.term.isalpha()
        ]

    def _log_share(self, word: str) -> float:
        """Of all words written; of a word of no list a guess, the smaller the longer it is."""
        listed = self._listed.get(word, 0) / self._total
        if self._vocabulary is None:
            share = listed
        else:
            seen = self._vocabulary.counts.get(word, 0) / self._vocabulary.total
            share = (1 - _TASK_SHARE) * listed + _TASK_SHARE * seen
        return math.log(share) if share else -_STRANGE - _STRANGE_LETTER * len(word)

    def _log_beside(self, first: str, second: str) -> float:
        """How much likelier each of two words is beside the other than elsewhere."""
        words = self._listed
        if first not in words or second not in words:
            return 0.0
        expected = words[first] * words[second] / self._total
        pair = self._checker.bigrams.get(f"{first} {second}", 0) / _PAIR_SCALE
        return math.log(1 - _PAIR_SHARE + _PAIR_SHARE * pair / expected)


@lru_cache(maxsize=4)
def english(max_edits: int, vocabulary: Vocabulary | None = None) -> Speller:
    """The speller of so many edits, read once."""
    return Speller(max_edits, vocabulary)


def _log_cost(word: str, typed: str, edits: int) -> float:
    """Each edit is at one of the letters; what was put in is one of all letters."""
    swapped = word != typed and sorted(word) == sorted(typed)
    edits = max(edits, 1)  # no other letter, but the capital is one that was put in
    put_in = 0 if swapped else edits - max(len(word) - len(typed), 0)
    return edits * math.log(len(word)) + put_in * _ANY_LETTER


def _stray_capital(word: str, uncased: bool) -> int | None:
    """Where the one capital of a word is that does not belong there."""
    capitals = [place for place, letter in enumerate(word) if letter.isupper()]
    stray = len(capitals) == 1 and len(word) > 1 and (uncased or capitals[0] > 0)
    return capitals[0] if stray else None


def _explains(candidate: str, word: str, capital: int, uncased: bool) -> bool:
    """Whether the capital went into the candidate, or is the candidate's first letter, moved."""
    typed = word.lower()
    before, after = typed[:capital], typed[capital + 1 :]
    longer = len(candidate) - len(before + after)
    if longer in (0, 1) and candidate.startswith(before) and candidate.endswith(after):
        return True
    moved = (typed[1:], typed[1] + typed[0] + typed[2:])
    return capital == 1 and not uncased and candidate in moved


def _in_case_of(word: str, correction: str, uncased: bool) -> str:
    if len(word) > 1 and word.isupper():
        return correction.upper()
    first = word[:1].isupper() and not (uncased and _stray_capital(word, uncased) == 0)
    moved = not uncased and word[1:2].isupper() and correction[:1] == word[1].lower()
    return correction[:1].upper() + correction[1:] if first or moved else correction
