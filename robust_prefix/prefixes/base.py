"""A prefix as plain tensors, with what made it and which model it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.backbones import Adapters, Backbone
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes.learned import Learned, own_weights
from robust_prefix.tasks import Task

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
        soft_tokens, layers, kernel, head, adapters, weights: see :class:`Learned`; float32.
    """

    tensor: Tensor
    base_model: str
    base_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    soft_tokens: Tensor | None = None
    layers: tuple[int, ...] | None = None
    kernel: Tensor | None = None
    head: Tensor | None = None
    adapters: Adapters | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, learned: Learned, backbone: Backbone, config: Mapping[str, Any]) -> Prefix:
        """What was learned for ``backbone``, as a file holds it.

        Weights inside a model in bfloat16 are kept as it takes them, which halves the file.
        """
        if learned.changes_model and backbone.dtype == torch.bfloat16:
            learned = learned.to(torch.device("cpu"), torch.bfloat16)
        kept = learned.detach().to(torch.device("cpu"), torch.float32)
        return cls(kept.tensor, backbone.name, backbone.fingerprint, config)._with(kept)

    @property
    def learned(self) -> Learned:
        """The tensors alone."""
        return Learned(
            self.tensor,
            self.soft_tokens,
            self.layers,
            self.kernel,
            self.head,
            self.adapters,
            self.weights,
        )

    def averaged(self, others: Sequence[Prefix], shares: Sequence[float]) -> Prefix:
        """The weighted mean of prefixes that went on from one another.

        Between them the loss is often no higher than at either, and a prefix trained against an
        adversary wins back clean accuracy (Wortsman et al., CVPR 2022, "Robust fine-tuning of
        zero-shot models"). Prefixes that were trained apart have no such path between them.

        Args:
            shares: of this one first, each from 0 to 1; they add up to 1.

        Raises:
            ArtifactError: they are for different base models.
            ConfigError: they differ in what was learned, have words or soft tokens, or the shares
                do not add up to 1.
        """
        everyone = (self, *others)
        if len({prefix.base_fingerprint for prefix in everyone}) > 1:
            names = ", ".join(prefix.base_fingerprint for prefix in everyone)
            raise ArtifactError(f"expected prefixes for one base model, got those for {names}")
        fits = len(shares) == len(everyone) and all(0 <= share <= 1 for share in shares)
        if not fits or not abs(sum(shares) - 1) <= 1e-6:
            raise ConfigError(
                f"expected {len(everyone)} shares of 0 to 1 that add up to 1, got {list(shares)}"
            )
        forms = [_form(prefix) for prefix in everyone]
        # Soft tokens were compiled to keys and values, and their mean is not compiled to the mean.
        apart = any("words" in each.config or each.soft_tokens is not None for each in everyone)
        if apart or any(form != forms[0] for form in forms):
            raise ConfigError(
                "expected prefixes of one method and size, without words or soft tokens, got "
                f"{', '.join(prefix.method for prefix in everyone)}; average "
                "those that were trained from one another with --start"
            )
        learned = self.learned.averaged([prefix.learned for prefix in others], shares)
        parts = [
            {"prefix": prefix.fingerprint, "share": share}
            for prefix, share in zip(everyone, shares, strict=True)
        ]
        kept = {k: v for k, v in self.config.items() if k not in ("dev_accuracy", "seed")}
        return replace(self._with(learned), config={**kept, "averaged": parts})

    @property
    def method(self) -> str:
        """What was trained; files of the first releases hold prefixes and do not say so."""
        return str(self.config.get("method", "prefix-tuning"))

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
        tensors = self.learned.tensors()
        del tensors["prefix"]  # in some layers it may count for nothing
        beside = sum(tensor.numel() for tensor in tensors.values())
        return beside + sum(tensor.numel() for tensor in self.learned.by_layer())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tensors; runs and subspaces name the prefix by it."""
        digest = hashlib.sha256()
        for tensor in self.learned.tensors().values():
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        if self.layers is not None:
            digest.update(repr(self.layers).encode())
        if self.adapters is not None:
            digest.update(repr((self.adapters.places, self.adapters.activation)).encode())
        if self.weights:
            digest.update(repr(sorted(self.weights)).encode())
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
        self._check_changes(backbone)

    def _with(self, learned: Learned) -> Prefix:
        """The same settings and model, with these tensors."""
        return replace(
            self,
            tensor=learned.tensor,
            soft_tokens=learned.soft_tokens,
            layers=learned.layers,
            kernel=learned.kernel,
            head=learned.head,
            adapters=learned.adapters,
            weights=learned.weights,
        )

    def _check_changes(self, backbone: Backbone) -> None:
        """Raise ArtifactError where ``backbone`` lacks what is to be changed in it."""
        if self.adapters is not None:
            hidden, places = backbone.hidden_size, set(self.adapters.places)
            have = {
                (layer, name)
                for layer in range(backbone.num_layers)
                for name in backbone.sublayers(layer)
            }
            if self.adapters.hidden_size != hidden or not places <= have:
                raise ArtifactError(
                    f"expected adapters of {hidden} dimensions in layers of {backbone.name}, got "
                    f"some of {self.adapters.hidden_size} at {sorted(places - have)}"
                )
        if self.weights:
            named = dict(backbone.frozen.model.named_parameters())
            for name, weight in self.weights.items():
                if name not in named or named[name].shape != weight.shape:
                    raise ArtifactError(
                        f"expected weights of {backbone.name}, got {name!r} of the shape "
                        f"{tuple(weight.shape)}, which it has not"
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
        """Write one safetensors file, in bfloat16 what loses nothing by it."""
        metadata: dict[str, Any] = {
            "base_model": self.base_model,
            "base_fingerprint": self.base_fingerprint,
            "config": dict(self.config),
        }
        if self.layers is not None:
            metadata["layers"] = list(self.layers)
        if self.adapters is not None:
            metadata["places"] = [list(place) for place in self.adapters.places]
            metadata["activation"] = self.adapters.activation
        tensors = {name: _shortest(tensor) for name, tensor in self.learned.tensors().items()}
        save_tensors(path, "prefix", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Prefix:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or not a prefix.
        """
        stored, metadata = load_tensors(path, "prefix")
        tensors = {name: tensor.float() for name, tensor in stored.items()}
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
                adapters=_adapters(tensors, metadata),
                weights=own_weights(tensors),
            )
        except KeyError as error:
            raise ArtifactError(f"expected {error} in the metadata of {path}, got none") from None


def _shortest(tensor: Tensor) -> Tensor:
    """In bfloat16 where that keeps every number, in float32 otherwise."""
    full = tensor.float()
    half = full.bfloat16()
    return half if torch.equal(half.float(), full) else full


def _form(prefix: Prefix) -> Any:
    """What two prefixes must agree in for their numbers to mean the same."""
    shapes = {name: tuple(tensor.shape) for name, tensor in prefix.learned.tensors().items()}
    places = prefix.adapters and (prefix.adapters.places, prefix.adapters.activation)
    return prefix.method, prefix.layers, shapes, places


def _adapters(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Adapters | None:
    """Those that a file of :meth:`Prefix.save` holds."""
    down, up = tensors.get("adapters_down"), tensors.get("adapters_up")
    if down is None or up is None:
        return None
    places = tuple((int(layer), str(name)) for layer, name in metadata["places"])
    return Adapters(down, up, places, metadata["activation"])
