"""Swaps that a language model finds likely. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from textattack.constraints import Constraint
from textattack.shared.validators import transformation_consists_of_word_swaps

from attacks.resources.base import Found
from attacks.resources.language_model import load_language_model


class _Fluency(Constraint):
    """What both constraints have in common: a word is judged by the words around it.

    Args:
        found: the language model.
        window: how many words on each side it sees.
        compare_against_original: whether these are the original's or the last text's.
    """

    def __init__(self, found: Found, window: int, compare_against_original: bool) -> None:
        super().__init__(compare_against_original)
        self._model = load_language_model(found)
        self._window = window
        self._known: dict[str, float] = {}

    def clear_cache(self) -> None:
        """Forget the likelihoods of the example's texts."""
        self._known.clear()

    def check_compatibility(self, transformation: Any) -> bool:
        """Words are comparable only where one stands for one."""
        return bool(transformation_consists_of_word_swaps(transformation))

    @abstractmethod
    def _check_constraint_many(self, transformed_texts: list[Any], reference: Any) -> list[Any]:
        """Those of ``transformed_texts`` that pass."""

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        return bool(self._check_constraint_many([transformed_text], reference_text))

    def _context(self, text: Any, index: int, word: str) -> str:
        """``word`` in the place of the text's word ``index``, among the neighbours it has there.

        It never reaches into another column.
        """
        start, words = 0, text.words
        for column in text.words_per_input:
            if index < start + len(column):
                words = column
                break
            start += len(column)
        place = index - start
        before = words[max(place - self._window, 0) : place]
        return " ".join([*before, word, *words[place + 1 : place + 1 + self._window]])

    def _likelihoods(self, contexts: Iterable[str]) -> dict[str, float]:
        """Log-likelihoods in nats; each distinct context is asked about once an example."""
        new = sorted(set(contexts) - self._known.keys())
        if new:
            self._known.update(zip(new, self._model.log_likelihoods(new), strict=True))
        return self._known


class MostFluent(_Fluency):
    """Of the swaps of one word in the last text, the few that are most likely there.

    Args:
        found: the language model.
        top: how many swaps of a word pass.
        window: how many words on each side it sees.
    """

    def __init__(self, found: Found, top: int, window: int) -> None:
        super().__init__(found, window, compare_against_original=False)
        self._top = top

    def _check_constraint_many(self, transformed_texts: list[Any], reference: Any) -> list[Any]:
        swaps: dict[int, dict[int, str]] = defaultdict(dict)  # index: place in the list: context
        for place, text in enumerate(transformed_texts):
            indices = text.attack_attrs["newly_modified_indices"]
            # A child of two texts changes several words at once: each passed when it was made.
            if len(indices) == 1 and len(text.words) == len(reference.words):
                [index] = indices
                swaps[index][place] = self._context(reference, index, text.words[index])
        rivals = [contexts for contexts in swaps.values() if len(contexts) > self._top]
        known = self._likelihoods(context for contexts in rivals for context in contexts.values())
        beaten: set[int] = set()
        for contexts in rivals:
            likelihoods = {place: known[context] for place, context in contexts.items()}
            ranked = sorted(likelihoods, key=likelihoods.__getitem__, reverse=True)
            beaten.update(ranked[self._top :])
        return [text for place, text in enumerate(transformed_texts) if place not in beaten]


class FluentEnough(_Fluency):
    """Each swapped word is not much less likely in the original than the word it stands for.

    Judged in the original, a swap passes or not whatever else is swapped, and it is judged once.

    Args:
        found: the language model.
        max_drop: how much the log-likelihood of the window may fall, in nats.
        window: how many words on each side it sees.
    """

    def __init__(self, found: Found, max_drop: float, window: int) -> None:
        super().__init__(found, window, compare_against_original=True)
        self._max_drop = max_drop

    def _check_constraint_many(self, transformed_texts: list[Any], reference: Any) -> list[Any]:
        swaps = [self._swaps(text, reference) for text in transformed_texts]
        known = self._likelihoods(
            context for pairs in swaps if pairs for pair in pairs for context in pair
        )
        return [
            text
            for text, pairs in zip(transformed_texts, swaps, strict=True)
            if pairs is not None
            and all(known[new] >= known[old] - self._max_drop for old, new in pairs)
        ]

    def _swaps(self, text: Any, original: Any) -> list[tuple[str, str]] | None:
        """Old and new context of each new swap; None where words do not stand one for one."""
        if len(text.words) != len(original.words):
            return None
        return [
            (
                self._context(original, index, original.words[index]),
                self._context(original, index, text.words[index]),
            )
            for index in sorted(text.attack_attrs["newly_modified_indices"])
        ]
