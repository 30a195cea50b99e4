"""A prefix as plain tensors, with what made it and which model it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.backbones import Backbone
from robust_prefix.backbones.base import LayerPrefixes
from robust_prefix.errors import ArtifactError
from robust_prefix.tasks import Task

PREFIX_FILE = "prefix.safetensors"
"""Its name in a run directory."""


@dataclass(frozen=True)
class Learned:
    """What a method gives the frozen model; gradients lead from here to its parameters.

    Attributes:
        tensor: keys and values ``(layers, 2, kv_heads, length, head_dim)``; keys first.
        soft_tokens: embeddings ``(tokens, hidden)``: of the virtual tokens that ``tensor`` was
            compiled from, then of those inside the template. None where keys and values are learned
            themselves.
        layers: the numbers of the layers that have a prefix; of the others ``tensor`` counts for
            nothing. All where None.
        kernel: ``(width, hidden)`` that the prompt's embeddings are convolved with. None where they
            are taken as they are.
        head: weights and, in the last column, biases of a linear classification head ``(classes,
            hidden + 1)`` over the state at the answer position; None where label words answer.
    """

    tensor: Tensor
    soft_tokens: Tensor | None = None
    layers: tuple[int, ...] | None = None
    kernel: Tensor | None = None
    head: Tensor | None = None

    @classmethod
    def compiled(cls, backbone: Backbone, soft_tokens: Tensor, length: int) -> Learned:
        """Soft tokens of which the first ``length`` stand before the prompt."""
        if not length:
            return cls(soft_tokens.new_zeros(backbone.prefix_shape(0)), soft_tokens)
        return cls(backbone.compile(soft_tokens[:length]), soft_tokens)

    @property
    def inner_tokens(self) -> Tensor | None:
        """Embeddings of the virtual tokens inside the template, ``(tokens, hidden)``."""
        if self.soft_tokens is None or len(self.soft_tokens) == self.length:
            return None
        return self.soft_tokens[self.length :]

    @property
    def length(self) -> int:
        """Number of virtual tokens before the text."""
        return self.tensor.shape[3]

    def by_layer(self) -> LayerPrefixes:
        """What the backbone takes: a layer without a prefix has one of length 0."""
        if self.layers is None:
            return self.tensor
        return [
            tensor if layer in self.layers else tensor[:, :, :0]
            for layer, tensor in enumerate(self.tensor)
        ]

    def interact(self, embedded: Tensor) -> Tensor:
        """What the first layer gets for a prompt's embeddings ``(batch, tokens, hidden)``."""
        if self.kernel is None:
            return embedded
        width, tokens = len(self.kernel), embedded.shape[1]
        padded = pad(embedded, (0, 0, width - 1, 0))
        for back, weights in enumerate(self.kernel):
            first = width - 1 - back
            embedded = embedded + weights * padded[:, first : first + tokens]
        return embedded

    def scores(self, backbone: Backbone, state: Tensor, words: Tensor | None = None) -> Tensor:
        """Scores from states at the answer position after the last layer ``(batch, hidden)``.

        Args:
            words: tokens or, where there is a head, classes to score; all where not given.

        Returns:
            float32 ``(batch, words)``.
        """
        if self.head is None:
            return backbone.next_token_logits(state, words)
        head = self.head.float()
        scores = linear(backbone.normed(state).float(), head[:, :-1], head[:, -1])
        return scores if words is None else scores[:, words]

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by the name they are stored under."""
        named = {
            "prefix": self.tensor,
            "soft_tokens": self.soft_tokens,
            "kernel": self.kernel,
            "head": self.head,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device, dtype: torch.dtype) -> Learned:
        """On another device, in another type."""
        return self._changed(lambda tensor: tensor.to(device, dtype))

    def detach(self) -> Learned:
        """Without the way back to the parameters."""
        return self._changed(Tensor.detach)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Learned:
        changed = {name: change(tensor) for name, tensor in self.tensors().items()}
        return replace(
            self,
            tensor=changed["prefix"],
            soft_tokens=changed.get("soft_tokens"),
            kernel=changed.get("kernel"),
            head=changed.get("head"),
        )


@dataclass(frozen=True)
class Prefix:
    """Learned keys and values put before the text in every layer.

    Attributes:
        tensor: float32 ``(layers, 2, kv_heads, length, head_dim)``; keys first, then values.
        base_model: the name the base model was loaded by.
        base_fingerprint: the base model's fingerprint.
        config: the settings that made it, as JSON values.
        soft_tokens, layers, kernel, head: see :class:`Learned`; float32.
    """

    tensor: Tensor
    base_model: str
    base_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    soft_tokens: Tensor | None = None
    layers: tuple[int, ...] | None = None
    kernel: Tensor | None = None
    head: Tensor | None = None

    @classmethod
    def of(cls, learned: Learned, backbone: Backbone, config: Mapping[str, Any]) -> Prefix:
        """What was learned for ``backbone``, as a file holds it."""
        kept = learned.detach().to(torch.device("cpu"), torch.float32)
        return cls(
            kept.tensor,
            backbone.name,
            backbone.fingerprint,
            config,
            soft_tokens=kept.soft_tokens,
            layers=kept.layers,
            kernel=kept.kernel,
            head=kept.head,
        )

    @property
    def learned(self) -> Learned:
        """The tensors alone."""
        return Learned(self.tensor, self.soft_tokens, self.layers, self.kernel, self.head)

    @property
    def length(self) -> int:
        """Number of virtual tokens before the text."""
        return self.tensor.shape[3]

    @property
    def parameters(self) -> int:
        """How many numbers were learned, without what was dropped after training."""
        if "words" in self.config:  # of a hard prompt: which ones they are was learned
            return len(self.config["words"])
        # Keys and values that soft tokens were compiled to were not learned themselves.
        if self.soft_tokens is not None:
            return self.soft_tokens.numel()
        beside = sum(each.numel() for each in (self.kernel, self.head) if each is not None)
        return beside + sum(tensor.numel() for tensor in self.learned.by_layer())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tensors; runs and subspaces name the prefix by it."""
        digest = hashlib.sha256()
        for tensor in self.learned.tensors().values():
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        if self.layers is not None:
            digest.update(repr(self.layers).encode())
        return digest.hexdigest()[:16]

    def check_base(self, backbone: Backbone) -> None:
        """Raise ArtifactError where ``backbone`` is not the model this prefix was trained on."""
        expected = backbone.prefix_shape(self.length)
        if tuple(self.tensor.shape) != expected:
            raise ArtifactError(
                f"expected a prefix of shape {expected} for {backbone.name}, got "
                f"{tuple(self.tensor.shape)} trained on {self.base_model}"
            )
        for rows in (self.soft_tokens, self.kernel):
            if rows is not None and rows.shape[1] != backbone.hidden_size:
                raise ArtifactError(
                    f"expected soft tokens or a kernel of {backbone.hidden_size} dimensions for "
                    f"{backbone.name}, got {rows.shape[1]} trained on {self.base_model}"
                )
        if self.head is not None and self.head.shape[1] != backbone.hidden_size + 1:
            raise ArtifactError(
                f"expected a head over {backbone.hidden_size} dimensions for {backbone.name}, "
                f"got {self.head.shape[1] - 1} trained on {self.base_model}"
            )
        if self.base_fingerprint != backbone.fingerprint:
            raise ArtifactError(
                f"expected a prefix for {backbone.name} (fingerprint {backbone.fingerprint}), got "
                f"one trained on {self.base_model} ({self.base_fingerprint}); "
                "load that model or train a new prefix"
            )

    def check_template(self, task: Task) -> None:
        """Raise ArtifactError where it lacks embeddings of virtual tokens in ``task``'s template,
        or where its head has other classes.

        Those that a template begins with may be all of those before the prompt, or the last.
        """
        if self.head is not None and len(self.head) != len(task.labels):
            raise ArtifactError(
                f"expected a head of the {len(task.labels)} classes of task {task.name!r}, got one "
                f"of {len(self.head)}; train one on this task"
            )
        before, inside = task.virtual_tokens
        inner = self.learned.inner_tokens
        have = 0 if inner is None else len(inner)
        if have != inside or (before and (self.soft_tokens is None or self.length < before)):
            raise ArtifactError(
                f"expected a prefix for the template of task {task.name!r}, with {before} virtual "
                f"tokens before and {inside} inside it, got one with {self.length} and {have}; "
                "train one on this template"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        metadata: dict[str, Any] = {
            "base_model": self.base_model,
            "base_fingerprint": self.base_fingerprint,
            "config": dict(self.config),
        }
        if self.layers is not None:
            metadata["layers"] = list(self.layers)
        tensors = {name: tensor.float() for name, tensor in self.learned.tensors().items()}
        save_tensors(path, "prefix", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Prefix:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or not a prefix.
        """
        tensors, metadata = load_tensors(path, "prefix")
        tensor, *matrices = map(tensors.get, ("prefix", "soft_tokens", "kernel", "head"))
        if (
            tensor is None
            or tensor.dim() != 5
            or tensor.shape[1] != 2
            or any(rows is not None and rows.dim() != 2 for rows in matrices)
        ):
            raise ArtifactError(
                "expected a tensor 'prefix' (layers, 2, kv_heads, length, head_dim) and, if any, "
                "'soft_tokens' (tokens, hidden), 'kernel' (width, hidden) and 'head' (classes, "
                f"hidden + 1) in {path}, "
                f"got { ({name: tuple(t.shape) for name, t in tensors.items()}) }"
            )
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ArtifactError(f"expected finite numbers in {path}, got NaN or infinity")
        try:
            return cls(
                tensor=tensor,
                base_model=metadata["base_model"],
                base_fingerprint=metadata["base_fingerprint"],
                config=metadata["config"],
                soft_tokens=tensors.get("soft_tokens"),
                layers=tuple(metadata["layers"]) if "layers" in metadata else None,
                kernel=tensors.get("kernel"),
                head=tensors.get("head"),
            )
        except KeyError as error:
            raise ArtifactError(f"expected {error} in the metadata of {path}, got none") from None
