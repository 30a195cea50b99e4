"""What every method is: settings, and a module whose forward gives what the frozen model needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from robust_prefix.backbones import Backbone
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.tasks import Task

Config = TypeVar("Config")


class Trainable(nn.Module, ABC):
    """The parameters of a method. The frozen model is given to it and never a part of it."""

    @abstractmethod
    def forward(self, backbone: Backbone) -> Learned:
        """What the model's passes take, with gradients to the parameters."""

    def notes(self) -> dict[str, Any]:
        """What is worth knowing of the parameters beside what they yield, as JSON values."""
        return {}


class Method(ABC, Generic[Config]):
    """Base of all methods.

    Attributes:
        name: what users type.
        paper: authors and year.
        learns: what is learned, in a few words.
        formula: how many numbers are kept after training, in terms of the model's sizes.
        config_type: its settings.
        learning_rate: of AdamW, with the default settings.
        in_template: whether it learns embeddings, and so those of virtual tokens in a template.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    learns: ClassVar[str]
    formula: ClassVar[str]
    config_type: ClassVar[type[Any]]
    learning_rate: ClassVar[float] = 5e-3
    in_template: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def length(self, task: Task) -> int:
        """Virtual tokens before the prompt: its own and those that the template begins with."""
        length: int = self.config.length  # type: ignore[attr-defined]
        return length + task.virtual_tokens[0]

    def has_head(self, backbone: Backbone) -> bool:
        """Whether a classification head answers on ``backbone``, and not the label words."""
        return False

    def trainable(self, backbone: Backbone, task: Task, start: Prefix | None = None) -> Trainable:
        """The parameters where training starts; what is random comes from torch's own generator.

        Args:
            start: a trained prefix to go on from, in place of the method's ``init``.

        Raises:
            ArtifactError: ``start`` belongs to another base model.
            ConfigError: a setting does not fit the model, the task or ``start``.
        """
        before, inside = task.virtual_tokens
        length = self.length(task)
        if (before or inside) and not self.in_template:
            raise ConfigError(
                "expected a method that learns embeddings (prompt-tuning, p-tuning) for the "
                f"virtual tokens in the template of task {task.name!r}, got {self.name!r}"
            )
        if self.in_template and length + inside == 0:
            raise ConfigError(
                f"expected virtual tokens for {self.name}, got length=0 and none in the template "
                f"of task {task.name!r}; write {{prompt:3}} into it, or raise the length"
            )
        if self.in_template and length and not backbone.causal:
            raise ConfigError(
                f"expected a decoder for {self.name}, whose virtual tokens stand before the text "
                f"as embeddings, got {backbone.name}, where they would read the text; use "
                "prefix-tuning or p-tuning-v2, or length=0 and {prompt:3} behind the text"
            )
        if length >= backbone.max_positions:
            raise ConfigError(
                f"expected a length below the {backbone.max_positions} positions of "
                f"{backbone.name}, got {length}"
            )
        if start is not None:
            start.check_base(backbone)
            start.check_template(task)
            if start.length != length:
                raise ConfigError(
                    f"expected a prefix of length {length} to start from, got {start.length}; "
                    "ask for that length"
                )
        return self.build(backbone, task, start)

    def own_learning_rate(self) -> float:
        """Of AdamW, where the user names none: that of these settings."""
        return self.learning_rate

    @abstractmethod
    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        """What ``trainable`` returns, the length and ``start`` being checked."""


def chosen_layers(layers: str, backbone: Backbone) -> set[int]:
    """Numbers of the layers that a setting names: ``all``, ``0-5`` or ``0-2/27-29``.

    Raises:
        ConfigError: the model has no such layer, or none is named.
    """
    if layers == "all":
        return set(range(backbone.num_layers))
    numbers: set[int] = set()
    for part in layers.split("/"):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    if not numbers or max(numbers) >= backbone.num_layers:
        raise ConfigError(
            f"expected layers of 0 to {backbone.num_layers - 1} for {backbone.name}, got {layers!r}"
        )
    return numbers
