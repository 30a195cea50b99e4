"""A victim small enough to know its gradient by heart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from attacks.base import Recipe
from robust_prefix.evaluation.protocols import Example
from robust_prefix.gradients import TokenGradients

Build = Callable[..., Recipe]

# What each word adds to the score of "positive", and a direction that sets apart kinds of words.
WORDS = {
    "good": (1.0, 0),
    "great": (1.2, 0),
    "nice": (0.8, 0),
    "solid": (-1.5, 0),
    "bad": (-1.0, 0),
    "grand": (0.7, 0),
    "tedious": (-0.9, 0),
    "huge": (0.3, 0),
    "goods": (-2.0, 0),
    "movie": (0.5, 1),
    "film": (-0.2, 1),
    "picture": (-0.4, 1),
    "movies": (0.1, 1),
    "trip": (0.2, 2),
    "journey": (-0.6, 2),
    "voyage": (0.4, 2),
    "the": (0.0, 3),
    "this": (-3.0, 3),
    "zqx": (-5.0, 0),  # a token that no word list knows
    "negative": (-6.0, 3),
    "positive": (6.0, 3),
}
HIDDEN = 6


class OpenBag:
    """Adds up the first coordinates of its tokens' embeddings; shows everything.

    Words of ``WORDS`` are one token, with or without a space before; any other word is spelt.
    """

    def __init__(self, columns: tuple[str, ...] = ("text",), max_tokens: int = 1000) -> None:
        self.labels = ("negative", "positive")
        self.columns = columns
        self.max_tokens = max_tokens
        self.asked: list[tuple[str, ...]] = []
        self.differentiated: list[tuple[tuple[str, ...], int, str]] = []
        spelt = [chr(code) for code in range(32, 127)]
        self.texts = [*spelt, *WORDS, *(f" {word}" for word in WORDS)]
        self.ids = {text: number for number, text in enumerate(self.texts)}
        self.matrix = np.zeros((len(self.texts), HIDDEN), dtype=np.float32)
        for number, text in enumerate(self.texts):
            if text.strip() in WORDS:
                weight, kind = WORDS[text.strip()]
                self.matrix[number, 0] = weight
                self.matrix[number, 1 + kind] = 3.0

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [
            tuple(
                number
                for piece in re.findall(r" ?[A-Za-z]+|.", text)
                for number in ([self.ids[piece]] if piece in self.ids else map(self.ids.get, piece))
            )
            for text in texts
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)

    def embeddings(self) -> np.ndarray:
        return self.matrix

    def _score(self, fields: tuple[str, ...]) -> float:
        seen = [token for row in self.encode(fields) for token in row][: self.max_tokens]
        return float(self.matrix[seen, 0].sum()) - 0.05

    def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        self.asked.extend(texts)
        scores = [self._score(fields) for fields in texts]
        return np.array([[-score, score] for score in scores], dtype=np.float32)

    def gradients(
        self, texts: Sequence[tuple[str, ...]], labels: Sequence[int], through: str = "fixed"
    ) -> list[TokenGradients]:
        found = []
        for fields, label in zip(texts, labels, strict=True):
            self.differentiated.append((fields, label, through))
            sign = 1 if label else -1
            margin = 2 * sign * self._score(fields)
            tokens, spans = [self.ids["?"]], [None]
            for column, row in enumerate(self.encode(fields)):
                start = 0
                for token in row:
                    tokens.append(token)
                    spans.append((column, start, start + len(self.texts[token])))
                    start = spans[-1][2]
            tokens, spans = tokens[: self.max_tokens + 1], spans[: self.max_tokens + 1]
            gradient = np.zeros((len(tokens), HIDDEN), dtype=np.float32)
            gradient[1:, 0] = -2 * sign / (1 + np.exp(margin))
            loss = float(np.log1p(np.exp(-margin)))
            found.append(TokenGradients(tuple(tokens), tuple(spans), gradient, loss))
        return found

    def predict(self, fields: tuple[str, ...]) -> int:
        return int(self._score(fields) > 0)


def examples(*texts: str, label: int = 1) -> list[Example]:
    return [Example(number, (text,), label) for number, text in enumerate(texts)]
