"""A prefix as plain tensors, with what made it and which model it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.backbones import CausalBackbone
from robust_prefix.errors import ArtifactError

PREFIX_FILE = "prefix.safetensors"
"""Its name in a run directory."""


@dataclass(frozen=True)
class Prefix:
    """Learned keys and values put before the text in every layer.

    Attributes:
        tensor: float32 ``(layers, 2, kv_heads, length, head_dim)``; keys first, then values.
        base_model: the name the base model was loaded by.
        base_fingerprint: the base model's fingerprint.
        config: the settings that made it, as JSON values.
    """

    tensor: Tensor
    base_model: str
    base_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return self.tensor.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tensor; runs and subspaces name the prefix by it."""
        values = self.tensor.detach().cpu().float().contiguous().numpy()
        return hashlib.sha256(values.tobytes()).hexdigest()[:16]

    def check_base(self, backbone: CausalBackbone) -> None:
        """Raise ArtifactError where ``backbone`` is not the model this prefix was trained on."""
        expected = backbone.prefix_shape(self.length)
        if tuple(self.tensor.shape) != expected:
            raise ArtifactError(
                f"expected a prefix of shape {expected} for {backbone.name}, got "
                f"{tuple(self.tensor.shape)} trained on {self.base_model}"
            )
        if self.base_fingerprint != backbone.fingerprint:
            raise ArtifactError(
                f"expected a prefix for {backbone.name} (fingerprint {backbone.fingerprint}), got "
                f"one trained on {self.base_model} ({self.base_fingerprint}); "
                "load that model or train a new prefix"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        metadata = {
            "base_model": self.base_model,
            "base_fingerprint": self.base_fingerprint,
            "config": dict(self.config),
        }
        save_tensors(path, "prefix", {"prefix": self.tensor.float()}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Prefix:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or not a prefix.
        """
        tensors, metadata = load_tensors(path, "prefix")
        tensor = tensors.get("prefix")
        if tensor is None or tensor.dim() != 5 or tensor.shape[1] != 2:
            raise ArtifactError(
                f"expected a tensor 'prefix' (layers, 2, kv_heads, length, head_dim) in {path}, "
                f"got { ({name: tuple(t.shape) for name, t in tensors.items()}) }"
            )
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"expected finite numbers in {path}, got NaN or infinity")
        try:
            return cls(
                tensor=tensor,
                base_model=metadata["base_model"],
                base_fingerprint=metadata["base_fingerprint"],
                config=metadata["config"],
            )
        except KeyError as error:
            raise ArtifactError(f"expected {error} in the metadata of {path}, got none") from None
