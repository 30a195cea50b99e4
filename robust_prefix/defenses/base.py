"""What every defence is: texts in, class scores out, its work counted."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, final

import torch
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.backbones.causal import Passes
from robust_prefix.data import length_batches
from robust_prefix.errors import ArtifactError, RobustPrefixError
from robust_prefix.prefixes import Encoded, PrefixModel
from robust_prefix.specs import build_config
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class NoSettings:
    """The configuration of a defence without settings."""


Config = TypeVar("Config")


class Defense(ABC, Generic[Config]):
    """Base of all defences.

    Subclasses give ``name`` and ``config_type``, and implement :meth:`run` for one batch.

    Attributes:
        name: what users type.
        summary: what it does, in a few words.
        dynamic: it optimises at inference; a replay number alone says nothing about it.
        randomized: two calls with the same text may differ.
        batch_dependent: an answer depends on the other texts of the batch, so batches keep the
            user's order; all others are sorted by length.
        needs_subspaces: it reads fitted subspaces.
        cost: passes spent so far.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_type: ClassVar[type[Any]] = NoSettings
    dynamic: ClassVar[bool] = False
    randomized: ClassVar[bool] = False
    needs_subspaces: ClassVar[bool] = False

    def __init__(self, subspaces: Subspaces | None = None, **settings: Any) -> None:
        if self.needs_subspaces and subspaces is None:
            raise ArtifactError(
                f"expected fitted subspaces for the defence {self.name!r}, got none; "
                "run robust-prefix fit-subspaces on the run first"
            )
        self.config: Config = build_config(self.config_type, settings, self.name)
        self.subspaces = subspaces
        self.cost = Passes()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], subspaces: Subspaces | None) -> Self:
        """Build from settings given as text."""
        return cls(subspaces if cls.needs_subspaces else None, **settings)

    @property
    def batch_dependent(self) -> bool:
        """Whether an answer depends on the other texts of its batch."""
        return False

    @property
    def spec(self) -> str:
        """Name and all settings, as :func:`robust_prefix.defenses.build_defense` parses them."""
        settings = dataclasses.asdict(self.config)  # type: ignore[call-overload]
        inner = ", ".join(f"{key}={value}" for key, value in settings.items())
        return f"{self.name}({inner})" if inner else self.name

    @final
    def logits(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int = 32) -> Tensor:
        """Class scores, defended.

        Args:
            texts: as ``task.fields`` gives them.
            batch_size: texts a pass.

        Returns:
            float32 ``(len(texts), classes)`` on the CPU.

        Raises:
            RobustPrefixError: the defence returned another shape, or numbers that are not finite.
        """
        if self.subspaces is not None:
            self.subspaces.check(model.backbone.fingerprint, model.prefix.fingerprint)
        encoded = model.prompter.encode(texts)
        classes = len(model.task.labels)
        scores = torch.empty(len(texts), classes)
        before = dataclasses.replace(model.backbone.passes)
        for indices in self.batches(encoded, batch_size):
            with torch.no_grad():
                batch = self.run(model, encoded.select(indices)).float().cpu()
            if batch.shape != (len(indices), classes) or not torch.isfinite(batch).all():
                raise RobustPrefixError(
                    f"expected finite scores ({len(indices)}, {classes}) from the defence "
                    f"{self.name!r}, got shape {tuple(batch.shape)} or NaN; lower its step size"
                )
            scores[indices] = batch
        self.cost.forward += model.backbone.passes.forward - before.forward
        self.cost.backward += model.backbone.passes.backward - before.backward
        return scores

    def batches(self, encoded: Encoded, batch_size: int) -> list[list[int]]:
        """Indices of the texts that go through the model together."""
        if self.batch_dependent:
            everything = list(range(len(encoded)))
            return [everything[i : i + batch_size] for i in range(0, len(encoded), batch_size)]
        return length_batches([len(row) for row in encoded.rows], batch_size)

    @abstractmethod
    def run(self, model: PrefixModel, encoded: Encoded) -> Tensor:
        """Scores of one batch ``(batch, classes)``; gradients are off unless switched on."""


class NoDefense(Defense[NoSettings]):
    """The classifier as it was trained."""

    name = "none"
    summary = "the classifier as it was trained"

    def run(self, model: PrefixModel, encoded: Encoded) -> Tensor:
        return model.logits(encoded)
