"""Distance to the nearest class, in the metric of the spread within the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.detection.base import Score, Seen
from robust_prefix.detection.gaussians import Gaussians


class Mahalanobis(Score):
    """``min_c (h - mu_c)^T S^-1 (h - mu_c)``, one covariance for all classes.

    Lee et al., NeurIPS 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples
    and Adversarial Attacks", equation 2. Deviations: the covariance is shrunk as Ledoit & Wolf
    (2004) do, for there may be fewer texts than directions; one layer is read and the input is not
    perturbed first, for weights of several layers are to be learned from adversaries, and a
    detector that has seen the attack it is tested on proves little.

    Args:
        layer: number of the layer whose state is read.
        gaussians: of the classes, with one covariance.
    """

    name = "mahalanobis"
    summary = "how far the state is from the nearest class"
    paper = (
        "Lee et al., NeurIPS 2018, A Simple Unified Framework for Detecting Out-of-Distribution "
        "Samples and Adversarial Attacks"
    )

    def __init__(self, layer: int, gaussians: Gaussians) -> None:
        self._layer = layer
        self._gaussians = gaussians

    @classmethod
    def fit(cls, layer: int, states: NDArray[np.float32], labels: NDArray[np.int_]) -> Self:
        """From states of clean text ``(n, hidden)`` and their classes ``(n,)``."""
        from sklearn.covariance import LedoitWolf

        classes = np.unique(labels)
        means = np.stack([states[labels == label].mean(0, dtype=np.float64) for label in classes])
        within = states - means[np.searchsorted(classes, labels)]
        covariance = LedoitWolf(assume_centered=True).fit(within).covariance_
        return cls(layer, Gaussians.of(means, covariance[None]))

    @property
    def layers(self) -> tuple[int, ...]:
        """See ``Score``."""
        return (self._layer,)

    def __call__(self, seen: Seen) -> Tensor:
        """See ``Score``."""
        states = seen.states[self._layer]
        return self._gaussians.to(states.device).squared_distances(states).min(-1).values

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See ``Score``."""
        return self._gaussians.tensors(), {"layer": self._layer}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """See ``Score``."""
        return cls(values["layer"], Gaussians.from_tensors(tensors))
