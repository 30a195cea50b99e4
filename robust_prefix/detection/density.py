"""Density under a robust Gaussian of the answered class, along a few principal directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.detection.base import Score, Seen
from robust_prefix.detection.gaussians import Gaussians


class Density(Score):
    """``-log N(P^T (h - m); mu_y, S_y)`` with ``y`` the answer.

    Yoo et al., Findings of ACL 2022, "Detection of Adversarial Examples in Text Classification:
    Benchmark and Baseline via Robust Density Estimation": few directions, then for each class the
    minimum covariance determinant (Rousseeuw 1984), which outliers among the training texts do not
    move. Deviation: the directions are of a linear PCA; of a kernel PCA every training state would
    have to be stored.

    Args:
        layer: number of the layer whose state is read.
        classes: the class numbers that have a Gaussian.
        gaussians: one a class, in the order of ``classes``.
    """

    name = "density"
    summary = "how unlikely the state is among clean texts with this answer"
    paper = (
        "Yoo et al., Findings of ACL 2022, Detection of Adversarial Examples in Text "
        "Classification: Benchmark and Baseline via Robust Density Estimation"
    )

    def __init__(self, layer: int, classes: tuple[int, ...], gaussians: Gaussians) -> None:
        self._layer = layer
        self._classes = classes
        self._gaussians = gaussians

    @classmethod
    def fit(
        cls,
        layer: int,
        states: NDArray[np.float32],
        labels: NDArray[np.int_],
        components: int,
        seed: int,
    ) -> Self:
        """From states of clean text ``(n, hidden)`` and their classes ``(n,)``.

        Args:
            components: how many directions; fewer where a class has too few texts for so many.
            seed: of the subsets that the minimum is searched from.
        """
        from sklearn.decomposition import PCA

        classes, counts = np.unique(labels, return_counts=True)
        # the half of a class that is kept has to span the directions
        kept = max(1, min(components, int(counts.min()) // 3, states.shape[1]))
        pca = PCA(kept, svd_solver="full").fit(states.astype(np.float64))
        coordinates = pca.transform(states.astype(np.float64))
        fits = [_robust(coordinates[labels == label], seed) for label in classes]
        gaussians = Gaussians.of(
            np.stack([fit.location_ for fit in fits]),
            np.stack([fit.covariance_ for fit in fits]),
            pca.mean_,
            pca.components_.T,
        )
        return cls(layer, tuple(classes.tolist()), gaussians)

    @property
    def layers(self) -> tuple[int, ...]:
        """See ``Score``."""
        return (self._layer,)

    def __call__(self, seen: Seen) -> Tensor:
        """See ``Score``; an answer of which there was no training text gets the best density."""
        states = seen.states[self._layer]
        densities = self._gaussians.to(states.device).log_densities(states)
        answers = seen.logits.to(states.device).argmax(-1)[:, None]
        own = answers == torch.tensor(self._classes, device=states.device)  # (n, classes fitted)
        chosen = densities.masked_fill(~own & own.any(-1, keepdim=True), -torch.inf)
        return -chosen.max(-1).values

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See ``Score``."""
        values = {"layer": self._layer, "classes": list(self._classes)}
        return self._gaussians.tensors(), values

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """See ``Score``."""
        return cls(values["layer"], tuple(values["classes"]), Gaussians.from_tensors(tensors))


def _robust(coordinates: NDArray[np.float64], seed: int) -> Any:
    """A class's Gaussian, of sklearn; the plain one where too many texts are the same one."""
    from sklearn.covariance import EmpiricalCovariance, MinCovDet

    try:
        return MinCovDet(random_state=seed).fit(coordinates)
    except ValueError:  # half of the texts or more have no covariance
        return EmpiricalCovariance().fit(coordinates)
