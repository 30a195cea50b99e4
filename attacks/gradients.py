"""What white-box attacks share: gradients under a budget, and what they predict of a change.

The estimate is the first-order one of HotFlip (Ebrahimi et al. 2018,
https://aclanthology.org/P18-2006/): to put another token in the place of one with the embedding
``e`` changes the loss by about ``gradient . (e' - e)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attacks.base import RecipeConfig
from attacks.substitution import Queries
from attacks.victim import Place, gradient_victim, tokens_at
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.tasks import Fields


@dataclass(frozen=True, kw_only=True)
class GradientConfig(RecipeConfig):
    """Settings of every attack that reads gradients."""

    # Of a defence that tunes at inference: what it tuned is held constant ("fixed"), or the
    # gradient passes through its tuning ("unrolled"). Without such a defence they are the same.
    through: Through = "fixed"


class Gradients:
    """Gradients of the true class's loss, each of which takes one query of the budget.

    Args:
        queries: the victim, the true class and the budget.
        through: see ``GradientConfig``.

    Raises:
        ConfigError: the victim gives no gradients.
    """

    def __init__(self, queries: Queries, through: Through) -> None:
        self._queries = queries
        self._through = through
        self._victim = gradient_victim(queries.victim)
        self.embeddings = self._victim.embeddings()
        self._encoded: dict[str, tuple[int, ...]] = {}

    def of(self, texts: Sequence[Fields]) -> list[TokenGradients]:
        """For the first n of ``texts``, as the budget allows."""
        texts = self._queries.spend(texts)
        labels = [self._queries.label] * len(texts)
        return self._victim.gradients(texts, labels, self._through) if texts else []

    def gains(self, found: TokenGradients, place: Place, words: Sequence[str]) -> np.ndarray:
        """By how much each of ``words`` in ``place`` would raise the loss, to first order.

        Exact to first order where a word has as many tokens as what it replaces. Of a longer one
        the first tokens count; the last token of a shorter one counts for all that are left.

        Returns:
            float64 ``(words,)``; minus infinity where no token covers the place.
        """
        rows = tokens_at(found, place)
        if not rows:
            return np.full(len(words), -np.inf)
        old = [found.tokens[row] for row in rows]
        new = np.array(
            [
                [tokens[min(number, len(tokens) - 1)] for number in range(len(rows))]
                for tokens in self._encode(self.spaces_before(old[0]), words)
            ]
        )
        slopes = found.gradient[rows].astype(np.float64)
        before = (self.embeddings[old] * slopes).sum()
        return sum(
            (self.embeddings[new[:, number]] @ slope for number, slope in enumerate(slopes)),
            start=-before,
        )

    def spaces_before(self, token: int) -> str:
        """The white space that a token begins with."""
        text = self._victim.decode([token])
        return text[: len(text) - len(text.lstrip())]

    def _encode(self, spaces: str, words: Sequence[str]) -> list[tuple[int, ...]]:
        texts = [spaces + word for word in words]
        new = [text for text in dict.fromkeys(texts) if text not in self._encoded]
        self._encoded.update(zip(new, self._victim.encode(new), strict=True))
        return [self._encoded[text] for text in texts]
