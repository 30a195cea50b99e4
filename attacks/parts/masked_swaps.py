"""Changes that a masked language model proposes. Imports TextAttack: import only from a recipe.

TextAttack's own transformations load a model by name, pad every text to 512 tokens, cut or take
words by markers of a few kinds of models, and, to merge, tag with a model that is a download.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from textattack.shared.utils import is_one_word
from textattack.transformations import Transformation, WordSwap

from attacks.resources.base import Found
from attacks.resources.masked_lm import Span, load_masked_lm
from attacks.resources.tagger import universal_tags
from attacks.words import word_places

# Which tags may follow which in what is merged, as in the authors' code of CLARE.
_MERGED = {
    "NOUN": ("NOUN",),
    "ADJ": ("NOUN", "NUM", "ADJ", "ADV"),
    "ADV": ("ADJ", "VERB"),
    "VERB": ("ADV", "VERB", "NOUN", "ADJ"),
    "DET": ("NOUN", "ADJ"),
    "PRON": ("NOUN", "ADJ"),
    "NUM": ("NUM", "NOUN"),
}


class _Masked(Transformation):
    """What all of them share.

    Args:
        found: the masked language model.
        max_candidates: words a place.
        min_probability: of a word in its place.
    """

    def __init__(self, found: Found, max_candidates: int, min_probability: float = 0.0) -> None:
        super().__init__()
        self._model = load_masked_lm(found)
        self._max_candidates = max_candidates
        self._min_probability = min_probability

    def _fill(self, text: str, spans: Sequence[Span]) -> list[list[str]]:
        return self._model.fill(text, spans, self._max_candidates, self._min_probability)


class MaskedSwap(_Masked, WordSwap):
    """A word by those that fit in its place, it being masked: BAE-R, CLARE's Replace."""

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        indices = sorted(indices_to_modify)
        places = word_places(current_text.text, current_text.words)
        filled = self._fill(current_text.text, [places[index] for index in indices])
        return [
            current_text.replace_word_at_index(index, word)
            for index, word in _differing(current_text.words, indices, filled)
        ]


class PieceSwap(MaskedSwap):
    """A word by what the model predicts for its pieces, nothing being masked: BERT-Attack."""

    def _fill(self, text: str, spans: Sequence[Span]) -> list[list[str]]:
        return self._model.rewrite(text, spans, self._max_candidates)


class MaskedInsertion(_Masked):
    """A word that fits before another: CLARE's Insert."""

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        indices = sorted(indices_to_modify)
        places = word_places(current_text.text, current_text.words)
        starts = [places[index][0] for index in indices]
        filled = self._fill(current_text.text, [(start, start) for start in starts])
        return [
            current_text.insert_text_before_word_index(index, word)
            for index, word in _differing(current_text.words, indices, filled)
        ]


class MaskedMerge(_Masked):
    """Two words by one that fits in their place: CLARE's Merge.

    The second must be one that may change, and the first one of the same column that has not
    changed yet; that it is a stopword, as in "the film", does not protect it.

    Args:
        tagger: the tagger that tells which neighbours may be merged; the others as above.
    """

    def __init__(
        self, found: Found, tagger: Found, max_candidates: int, min_probability: float = 0.0
    ) -> None:
        super().__init__(found, max_candidates, min_probability)
        self._tagger = tagger

    def _get_transformations(
        self, current_text: Any, indices_to_modify: Iterable[int]
    ) -> list[Any]:
        words = current_text.words
        first = self._mergeable(current_text, set(indices_to_modify))
        places = word_places(current_text.text, words)
        filled = self._fill(
            current_text.text, [(places[index][0], places[index + 1][1]) for index in first]
        )
        return [
            current_text.delete_word_at_index(index + 1).replace_word_at_index(index, word)
            for index, word in _differing(words, first, filled)
        ]

    def _mergeable(self, current_text: Any, allowed: set[int]) -> list[int]:
        """The first words of the pairs that may become one."""
        words, starts, passed = current_text.words, set(), 0
        for column in current_text.words_per_input:
            starts.add(passed)
            passed += len(column)
        tags = universal_tags(self._tagger, words)
        return [
            index
            for index in range(len(words) - 1)
            if index + 1 in allowed - starts
            and index not in current_text.attack_attrs["modified_indices"]
            and tags[index + 1] in _MERGED.get(tags[index], ())
        ]


def _differing(
    words: Sequence[str], indices: Sequence[int], filled: Sequence[Sequence[str]]
) -> Iterator[tuple[int, str]]:
    """Each index with each word for it that is another one, its case aside."""
    for index, candidates in zip(indices, filled, strict=True):
        for word in candidates:
            if word.lower() != words[index].lower() and is_one_word(word):
                yield index, word
