"""The tokens of a victim that are words by themselves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robust_prefix.evaluation.protocols import GradientVictim


@dataclass(frozen=True)
class Words:
    """Some words, each of which is one token.

    Attributes:
        texts: the words, without a space.
        tokens: their ids ``(words,)``.
        embeddings: their input embeddings, float32 ``(words, hidden)``.
    """

    texts: tuple[str, ...]
    tokens: np.ndarray
    embeddings: np.ndarray

    @cached_property
    def norms(self) -> np.ndarray:
        """Norm of each word's embedding ``(words,)``."""
        return np.linalg.norm(self.embeddings, axis=1)


@dataclass(frozen=True)
class Vocabulary:
    """The one-token words of a victim.

    Attributes:
        spaced: those of which the space before is a part, as in the middle of a text.
        bare: those without one, as at its beginning.
    """

    spaced: Words
    bare: Words

    def like(self, token_text: str) -> Words:
        """Those that may stand for a token with this text."""
        return self.spaced if token_text[:1].isspace() else self.bare


# The last one: an attack meets the same victim at each example, and reading takes a second.
_last: dict[str, Vocabulary] = {}


def read_vocabulary(victim: GradientVictim) -> Vocabulary:
    """The words that are one token of ``victim``: letters alone, and encoded as that very token.

    Special tokens and pieces of characters are none. What is one token at a text's beginning may
    be a piece of a word elsewhere, such as ``ing``.
    """
    embeddings = victim.embeddings()
    key = hashlib.blake2b(embeddings[::64].tobytes()).hexdigest()
    if key not in _last:
        texts = [victim.decode([token]) for token in range(len(embeddings))]
        _last.clear()
        _last[key] = Vocabulary(
            spaced=_words(victim, texts, embeddings, " "),
            bare=_words(victim, texts, embeddings, ""),
        )
    return _last[key]


def _words(victim: GradientVictim, texts: list[str], embeddings: np.ndarray, before: str) -> Words:
    found = [
        token
        for token, text in enumerate(texts)
        if text.startswith(before) and text.removeprefix(before).isalpha()
    ]
    encoded = victim.encode([texts[token] for token in found])
    stable = [token for token, row in zip(found, encoded, strict=True) if tuple(row) == (token,)]
    return Words(
        tuple(texts[token].removeprefix(before) for token in stable),
        np.array(stable, dtype=np.intp),
        embeddings[stable],
    )
