"""What every method is that searches for words and trains no numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Protocol

from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.hard_prompt import HardPrompt, Wording, Words
from robust_prefix.prefixes.method import Config, Method
from robust_prefix.tasks import Task


@dataclass(frozen=True)
class Score:
    """How good words are on one batch.

    Attributes:
        loss: mean cross-entropy of the label word among the label words.
        accuracy: 0 to 1.
    """

    loss: float
    accuracy: float


class Questions(Protocol):
    """What a step of a search may ask of the training texts; two batches answer it."""

    def gradient(self, words: Words) -> Tensor:
        """Of the loss at the words' embeddings, float32 ``(words, hidden)``, on one batch."""
        ...

    def score(self, words: Words) -> Score:
        """On the other batch."""
        ...


class Searched(Method[Config]):
    """Base of the methods whose result is words; :mod:`robust_prefix.search` runs the steps.

    A step is a function of what it is given: a search that was killed goes on to the same result.
    """

    in_template: ClassVar[bool] = True

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many there are."""

    @abstractmethod
    def step(
        self, wording: Wording, population: Sequence[Words], questions: Questions, random: Random
    ) -> tuple[list[Words], Score]:
        """One step.

        Args:
            population: the prompts that the last step left; of the first step the start alone.

        Returns:
            The prompts that are left, the best first, and its score.
        """

    def length(self, task: Task) -> int:
        """See ``Method``: the words are followed by a line break."""
        own: int = self.config.length  # type: ignore[attr-defined]
        return super().length(task) + (1 if own else 0)

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> HardPrompt:
        """See ``Method``.

        Raises:
            ConfigError: the words to start from are none, too many, or read otherwise once written.
        """
        settings: Any = self.config
        wording = Wording(backbone, task, settings.length)
        if start is not None:
            words = tuple(start.config.get("words", ()))
            if len(words) != wording.count:
                raise ConfigError(
                    f"expected {wording.count} words that were searched to start from, got a "
                    f"prefix of the method {start.config.get('method', 'prefix-tuning')!r}; "
                    "give init_text instead"
                )
            return HardPrompt(wording, words)
        text = settings.init_text.strip()
        first = backbone.encode([f" {text}"])[0] if text else []
        if len(first) > wording.count:
            raise ConfigError(
                f"expected an init_text of at most {wording.count} tokens, got {len(first)} in "
                f"{text!r}; raise the length"
            )
        return HardPrompt(wording, wording.drawn(first))
