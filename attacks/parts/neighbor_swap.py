"""Swapping a word for its listed neighbours. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from textattack.transformations import WordSwap

from attacks.resources.base import Found
from attacks.resources.neighbors import load_neighbors, neighbors_of


class NeighborSwap(WordSwap):
    """TextAttack's ``WordSwapEmbedding`` for a list of neighbours instead of the vectors.

    Args:
        found: the neighbour list.
        max_candidates: how many of a word's nearest neighbours to try.
    """

    def __init__(self, found: Found, max_candidates: int) -> None:
        super().__init__()
        self._neighbors = load_neighbors(found)
        self._max_candidates = max_candidates

    def _get_replacement_words(self, word: str) -> list[str]:
        """The neighbours of ``word`` in its case, the nearest first."""
        return neighbors_of(word, self._neighbors)[: self._max_candidates]
