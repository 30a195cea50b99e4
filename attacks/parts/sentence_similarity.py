"""Swaps that keep the meaning. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from textattack.constraints.semantics.sentence_encoders import SentenceEncoder
from textattack.shared import AttackedText

from attacks.resources.base import Found
from attacks.resources.sentence_encoder import load_encoder


class SentenceSimilarity(SentenceEncoder):
    """TextAttack's constraint on sentence embeddings, with the encoder that was found.

    A step's candidates are encoded together, each distinct text once.

    Args:
        found: the encoder.
        **settings: ``threshold``, ``metric``, ``compare_against_original``, ``window_size`` and
            ``skip_text_shorter_than_window`` as TextAttack has them.
    """

    def __init__(self, found: Found, **settings: Any) -> None:
        super().__init__(**settings)
        self._encoder = load_encoder(found)
        # What TextAttack calls instead of this class's ``encode`` where it checks a single text.
        self.model = self

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        """Unit vectors ``(len(sentences), hidden)``; the columns of a pair are read as one text."""
        return self._encoder.encode([s.replace(AttackedText.SPLIT_TOKEN, " ") for s in sentences])
