"""What of the states lies outside the subspaces that the defence robust-prefix moves them into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from robust_prefix.detection.base import Score, Seen
from robust_prefix.subspaces import Subspace, residual_norm_squared


class Residual(Score):
    """``sum_j ||(I - Q_j)(h_j - m_j)||^2`` over the fitted layers, the loss of robust-prefix.

    Args:
        layers: the run's subspaces by layer number.
    """

    name = "residual"
    summary = "how far the states are from the subspaces of clean text"
    paper = "Yang & Liu, ICLR 2022, On Robust Prefix-Tuning for Text Classification"

    def __init__(self, layers: Mapping[int, Subspace]) -> None:
        self._subspaces = dict(layers)

    @property
    def layers(self) -> tuple[int, ...]:
        """See ``Score``."""
        return tuple(sorted(self._subspaces))

    def __call__(self, seen: Seen) -> Tensor:
        """See ``Score``."""
        terms = [
            residual_norm_squared(subspace.to(seen.states[layer].device), seen.states[layer])
            for layer, subspace in self._subspaces.items()
        ]
        return torch.stack(terms).sum(0)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See ``Score``."""
        tensors = {}
        for layer, subspace in self._subspaces.items():
            tensors[f"{layer}.mean"] = subspace.mean
            tensors[f"{layer}.basis"] = subspace.basis
        complement = {str(j): subspace.is_complement for j, subspace in self._subspaces.items()}
        return tensors, {"complement": complement}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """See ``Score``."""
        return cls(
            {
                int(layer): Subspace(tensors[f"{layer}.mean"], tensors[f"{layer}.basis"], other)
                for layer, other in values["complement"].items()
            }
        )
