"""What several answers to one question come to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Combine = Literal["vote", "mean"]
"""Count the answers, the mean of their probabilities deciding among equals; or take that mean."""


def votes(answers: Tensor) -> Tensor:
    """One vote each for its best class: ``(..., voters, classes)`` scores to float64 0 and 1."""
    return torch.nn.functional.one_hot(answers.argmax(-1), answers.shape[-1]).double()


def combined(answers: Tensor, combine: Combine) -> Tensor:
    """The log-probabilities that scores ``(..., voters, classes)`` come to.

    For ``vote`` the probabilities are the shares of the votes and of, as one vote more, the mean
    of the voters' probabilities. That is less than a vote between any two classes, so it decides
    between equals only; it is what gradients pass through and what an attacker can follow.

    Returns:
        float32 ``(..., classes)``; summed in float64, for what is left of a class that no voter
        takes for likely is far below float32.
    """
    total = answers.double().softmax(-1).mean(-2)
    if combine == "vote":
        total = (total + votes(answers).sum(-2)) / (answers.shape[-2] + 1)
    return total.clamp_min(torch.finfo(torch.float64).tiny).log().float()
