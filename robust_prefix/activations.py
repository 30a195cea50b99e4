"""States at the answer position, streamed batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robust_prefix.data import length_batches
from robust_prefix.prefixes import PrefixModel
from robust_prefix.tasks import Fields


def answers(
    model: PrefixModel, texts: Sequence[Fields], layers: Sequence[int], batch_size: int = 32
) -> Iterator[tuple[list[int], dict[int, Tensor], Tensor]]:
    """States and class scores of batches of like length.

    Yields:
        The places of a batch's texts, ``{j: float32 (batch, hidden)}`` and float32
        ``(batch, classes)``.
    """
    encoded = model.prompter.encode(texts)
    for indices in length_batches([len(row) for row in encoded.rows], batch_size):
        with torch.inference_mode():
            states, logits = model.answer_states(encoded.select(indices), layers)
        yield indices, states, logits


def correct_states(
    model: PrefixModel,
    texts: Sequence[Fields],
    labels: Sequence[int],
    layers: Sequence[int],
    batch_size: int = 32,
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """States of the examples whose class the model gets right, by argmax over the label words.

    Yields:
        For each batch its number of examples, and ``{j: float32 (correct, hidden)}``.
    """
    for indices, states, logits in answers(model, texts, layers, batch_size):
        truth = torch.tensor([labels[i] for i in indices], device=logits.device)
        correct = logits.argmax(-1) == truth
        yield len(indices), {layer: rows[correct] for layer, rows in states.items()}
