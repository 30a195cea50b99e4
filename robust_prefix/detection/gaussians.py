"""One Gaussian a class over the states of one layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """Class-conditional Gaussians, as what it takes to evaluate them.

    Attributes:
        origin: what is subtracted from a state before anything else ``(hidden,)``.
        basis: orthonormal columns the rest is read along ``(hidden, k)``.
        means: of each class in these coordinates ``(classes, k)``.
        whitening: ``W_c`` with ``W_c W_c^T`` the precision ``(classes, k, k)``, or ``(1, k, k)``
            where the classes share one.
        log_normalizers: ``log det(covariance) + k log(2 pi)`` of each ``(classes,)`` or ``(1,)``.
    """

    origin: Tensor
    basis: Tensor
    means: Tensor
    whitening: Tensor
    log_normalizers: Tensor

    def squared_distances(self, states: Tensor) -> Tensor:
        """Squared Mahalanobis distances to each class's mean, ``(n, hidden)`` to
        ``(n, classes)``."""
        coordinates = (states - self.origin) @ self.basis
        centered = coordinates[:, None] - self.means  # (n, classes, k)
        whitened = torch.einsum("nck,ckl->ncl", centered, self.whitening.expand(*self._full))
        return whitened.square().sum(-1)

    def log_densities(self, states: Tensor) -> Tensor:
        """Log density under each class's Gaussian, ``(n, hidden)`` to ``(n, classes)``."""
        return -0.5 * (self.squared_distances(states) + self.log_normalizers)

    def to(self, device: torch.device) -> Gaussians:
        """The same on another device."""
        return Gaussians(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The attributes by name."""
        return {
            "origin": self.origin,
            "basis": self.basis,
            "means": self.means,
            "whitening": self.whitening,
            "log_normalizers": self.log_normalizers,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Gaussians:
        """The inverse of ``tensors``."""
        names = ("origin", "basis", "means", "whitening", "log_normalizers")
        return cls(*(tensors[name] for name in names))

    @classmethod
    def of(
        cls,
        means: NDArray[np.float64],
        covariances: NDArray[np.float64],
        origin: NDArray[np.float64] | None = None,
        basis: NDArray[np.float64] | None = None,
    ) -> Gaussians:
        """From means ``(classes, k)`` and covariances ``(classes, k, k)`` or ``(1, k, k)``.

        Directions in which nothing varies are given a millionth of the largest variance of any
        class.

        Args:
            origin, basis: see the attributes; the states themselves where not given, and then the
                first mean is the origin, which keeps float32 away from large numbers.
        """
        k = means.shape[1]
        if origin is None or basis is None:
            origin, basis = means[0], np.eye(k)
            means = means - origin
        variances, directions = np.linalg.eigh(covariances)
        floor = max(float(variances.max()) * 1e-6, float(np.finfo(np.float32).tiny))
        variances = np.maximum(variances, floor)
        return cls(
            _tensor(origin),
            _tensor(basis),
            _tensor(means),
            _tensor(directions / np.sqrt(variances)[:, None, :]),
            _tensor(np.log(variances).sum(-1) + k * math.log(2 * math.pi)),
        )

    @property
    def _full(self) -> tuple[int, int, int]:
        classes, k = self.means.shape
        return classes, k, k


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
