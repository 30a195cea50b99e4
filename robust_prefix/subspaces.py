"""What "normal" looks like inside the model: a mean and a low-rank basis a layer.

Pure functions on tensors and a streaming fit whose memory does not grow with the data
(Yang & Liu, ICLR 2022: the columns of ``V_j`` span the subspace of layer ``j``, and
``Q_j = V_j V_j^T`` projects onto it).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.configs import Criterion
from robust_prefix.errors import ArtifactError, ConfigError, InputError


@dataclass(frozen=True)
class Subspace:
    """An affine subspace of the hidden space.

    Attributes:
        mean: ``(hidden,)``.
        basis: orthonormal columns ``(hidden, k)``: the subspace's own basis, or that of its
            orthogonal complement, whichever is smaller.
        is_complement: whether ``basis`` spans the complement.
    """

    mean: Tensor
    basis: Tensor
    is_complement: bool

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        hidden, columns = self.basis.shape
        return hidden - columns if self.is_complement else columns

    def to(self, device: torch.device) -> Subspace:
        """The same on another device."""
        return Subspace(self.mean.to(device), self.basis.to(device), self.is_complement)


def residual(subspace: Subspace, states: Tensor, center: Tensor | None = None) -> Tensor:
    """What lies outside the subspace: ``(I - Q)(h - m)``.

    Args:
        states: ``(..., hidden)``.
        center: ``m``, broadcast against ``states``; the stored mean where not given.

    Returns:
        ``(..., hidden)``, orthogonal to the subspace.
    """
    centered = states - (subspace.mean if center is None else center)
    along_basis = centered @ subspace.basis @ subspace.basis.T
    return along_basis if subspace.is_complement else centered - along_basis


def project(subspace: Subspace, states: Tensor) -> Tensor:
    """The nearest point of the subspace: ``argmin_p ||p - h||`` over ``p`` in ``mean + span(V)``.

    Args:
        states: ``(..., hidden)``.

    Returns:
        ``(..., hidden)``.
    """
    return states - residual(subspace, states)


def residual_norm_squared(
    subspace: Subspace, states: Tensor, center: Tensor | None = None
) -> Tensor:
    """``||(I - Q)(h - m)||^2``, one number a state: ``(..., hidden)`` to ``(...)``.

    Through the complement's coordinates where that is what is stored, which is the cheaper way.
    """
    centered = states - (subspace.mean if center is None else center)
    inside = (centered @ subspace.basis).square().sum(-1)
    if subspace.is_complement:
        return inside
    return (centered - centered @ subspace.basis @ subspace.basis.T).square().sum(-1)


class StreamingCovariance:
    """Mean and scatter matrix of rows that come in batches, in float64.

    Batches are merged with the pairwise update of Chan, Golub & LeVeque (1979), which keeps the
    scatter centred all along: a plain sum of squares would lose the small directions, and those
    are what a residual is made of.
    """

    def __init__(self, hidden: int) -> None:
        self.count = 0
        self.mean = torch.zeros(hidden, dtype=torch.float64)
        self.scatter = torch.zeros(hidden, hidden, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add rows ``(n, hidden)``."""
        if rows.shape[0] == 0:
            return
        rows = rows.detach().to(self.mean.device, torch.float64)
        total = self.count + rows.shape[0]
        mean = rows.mean(0)
        centered = rows - mean
        shift = mean - self.mean
        # In place: matrices made anew for every batch leave the heap in pieces, which grows.
        self.scatter.addmm_(centered.T, centered)
        self.scatter.addr_(shift, shift, alpha=self.count * rows.shape[0] / total)
        self.mean += shift * (rows.shape[0] / total)
        self.count = total

    def principal(self) -> tuple[Tensor, Tensor]:
        """Principal directions ``(hidden, hidden)`` in columns, and the singular values
        ``(hidden,)`` of the centred rows, both from the largest down."""
        eigenvalues, vectors = torch.linalg.eigh(self.scatter)
        return vectors.flip(1), eigenvalues.flip(0).clamp(min=0).sqrt()

    def subspace(self, threshold: float, criterion: Criterion = "singular-values") -> Subspace:
        """The smallest subspace whose cumulative share exceeds ``threshold``.

        Args:
            threshold: between 0 and 1; the paper takes 0.99.
            criterion: shares of the singular values (the paper) or of their squares, the
                explained variance.

        Raises:
            InputError: fewer than two rows were seen.
        """
        if self.count < 2:
            raise InputError(f"expected at least 2 states to fit a subspace, got {self.count}")
        vectors, values = self.principal()
        # Rounding leaves about 1e-8 of the largest value where there is no variation at all.
        values = torch.where(values > values[0] * 1e-7, values, torch.zeros_like(values))
        rank = choose_rank(values, threshold, criterion)
        hidden = values.shape[0]
        is_complement = rank > hidden - rank
        basis = vectors[:, rank:] if is_complement else vectors[:, :rank]
        return Subspace(self.mean.float(), basis.float().contiguous(), is_complement)


def choose_rank(values: Tensor, threshold: float, criterion: Criterion = "singular-values") -> int:
    """The smallest ``r`` with ``sum(values[:r]) / sum(values) > threshold``.

    Args:
        values: singular values from the largest down ``(hidden,)``.

    Returns:
        0 where nothing varies; the number of values where no smaller rank exceeds ``threshold``.

    Raises:
        ConfigError: the threshold is not inside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"expected a threshold above 0 and at most 1, got {threshold}")
    shares = values.double() if criterion == "singular-values" else values.double().square()
    total = shares.sum()
    if total == 0:
        return 0
    reached = (shares.cumsum(0) / total > threshold).nonzero()
    return int(reached[0]) + 1 if len(reached) else int((values > 0).sum())


@dataclass(frozen=True)
class Subspaces:
    """Subspaces by layer number ``j`` (0 is the embedding), and what made them.

    Attributes:
        margins: of the plain answers on dev, in logits: their quantiles from 0 to 1, in equal
            steps ``(steps + 1,)``; None where there was no dev split.
    """

    layers: Mapping[int, Subspace]
    base_fingerprint: str
    prefix_fingerprint: str
    config: Mapping[str, Any]
    margins: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the bases, means and margins; results name what they were measured with."""
        digest = hashlib.sha256(repr((self.base_fingerprint, self.prefix_fingerprint)).encode())
        for layer, subspace in sorted(self.layers.items()):
            digest.update(repr((layer, subspace.is_complement)).encode())
            for tensor in (subspace.mean, subspace.basis):
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        if self.margins is not None:
            digest.update(self.margins.float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def margin_at(self, share: float) -> float | None:
        """The margin below which ``share`` of the dev texts lie; None where it is not known.

        It is 0 for a share of 0 and infinite for a share of 1.
        """
        if self.margins is None:
            return None
        if share in (0, 1):
            return 0.0 if share == 0 else math.inf
        steps = torch.linspace(0, 1, len(self.margins))
        return float(np.interp(share, steps.numpy(), self.margins.numpy()))

    def check(self, base_fingerprint: str, prefix_fingerprint: str) -> None:
        """Raise ArtifactError where they were fitted on another model or prefix."""
        mine = (self.base_fingerprint, self.prefix_fingerprint)
        if mine != (base_fingerprint, prefix_fingerprint):
            raise ArtifactError(
                f"expected subspaces for base model {base_fingerprint} and prefix "
                f"{prefix_fingerprint}, got ones for {mine[0]} and {mine[1]}; "
                "run robust-prefix fit-subspaces on this run"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for layer, subspace in self.layers.items():
            tensors[f"{layer}.mean"] = subspace.mean
            tensors[f"{layer}.basis"] = subspace.basis
        if self.margins is not None:
            tensors["margins"] = self.margins
        metadata = {
            "base_fingerprint": self.base_fingerprint,
            "prefix_fingerprint": self.prefix_fingerprint,
            "config": dict(self.config),
            "complement": {str(j): s.is_complement for j, s in self.layers.items()},
        }
        save_tensors(path, "subspaces", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Subspaces:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or does not hold subspaces.
        """
        tensors, metadata = load_tensors(path, "subspaces")
        try:
            layers = {
                int(layer): Subspace(
                    tensors[f"{layer}.mean"], tensors[f"{layer}.basis"], complement
                )
                for layer, complement in metadata["complement"].items()
            }
            return cls(
                layers,
                metadata["base_fingerprint"],
                metadata["prefix_fingerprint"],
                metadata["config"],
                tensors.get("margins"),
            )
        except KeyError as error:
            raise ArtifactError(f"expected {error} in {path}, got a file without it") from None
        except (AttributeError, ValueError) as error:
            raise ArtifactError(f"expected subspaces by layer in {path}, got {error}") from None
