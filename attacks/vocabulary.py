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

    Special tokens and pieces of characters are none. Without a space before it a token may as well
    be the rest of a longer word, such as ``ance``: only what is one token behind a space, too,
    counts there.
    """
    embeddings = victim.embeddings()
    key = hashlib.blake2b(embeddings[::64].tobytes()).hexdigest()
    if key not in _last:
        texts = [victim.decode([token]) for token in range(len(embeddings))]
        spaced = [
            token
            for token, text in enumerate(texts)
            if text.startswith(" ") and text.removeprefix(" ").isalpha()
        ]
        known = {texts[token].removeprefix(" ") for token in spaced}
        bare = [token for token, text in enumerate(texts) if text in known]
        _last.clear()
        _last[key] = Vocabulary(
            spaced=_stable(victim, texts, embeddings, spaced),
            bare=_stable(victim, texts, embeddings, bare),
        )
    return _last[key]


def _stable(
    victim: GradientVictim, texts: list[str], embeddings: np.ndarray, tokens: list[int]
) -> Words:
    """Those of ``tokens`` whose text is encoded as the token itself."""
    rows = victim.encode([texts[token] for token in tokens])
    kept = [token for token, row in zip(tokens, rows, strict=True) if tuple(row) == (token,)]
    return Words(
        tuple(texts[token].removeprefix(" ") for token in kept),
        np.array(kept, dtype=np.intp),
        embeddings[kept],
    )
