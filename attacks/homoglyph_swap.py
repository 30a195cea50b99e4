"""Swapping a letter for one that looks alike. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from textattack.transformations import WordSwap

# Latin letters and their doubles in other scripts, as Unicode's list of confusables (UTS #39) has
# them. Letters all: a sign such as "@" for "a" would cut the word in two for TextAttack.
LOOKALIKES = dict(
    zip(
        "acdeghijlnopqsuvwxy" + "ABCEHIJKMOPSTXY",
        "\u0430\u0441\u0501\u0435\u0261\u04bb\u0456\u0458\u04cf\u0578\u043e\u0440\u051b\u0455\u057d"
        "\u0475\u051d\u0445\u0443"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae",
        strict=True,
    )
)


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
