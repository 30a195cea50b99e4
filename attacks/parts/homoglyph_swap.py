"""Swapping a letter for one that looks alike. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from textattack.transformations import WordSwap

from attacks.lookalikes import LOOKALIKES


class HomoglyphSwap(WordSwap):
    """Every word that differs in one letter, which looks like the old one.

    TextAttack's own class reads a data file that its wheel lacks.
    """

    def _get_replacement_words(self, word: str) -> list[str]:
        return [
            word[:i] + LOOKALIKES[letter] + word[i + 1 :]
            for i, letter in enumerate(word)
            if letter in LOOKALIKES
        ]
