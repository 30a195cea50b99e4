"""A prompt that somebody wrote, evaluated zero-shot (Brown et al., NeurIPS 2020, "Language Models
are Few-Shot Learners"): nothing is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random
from typing import ClassVar

import torch

from robust_prefix.backbones import Backbone
from robust_prefix.configs import ManualPromptConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.hard_prompt import HardPrompt, Wording, Words
from robust_prefix.prefixes.method import Trainable
from robust_prefix.prefixes.searched import Questions, Score, Searched
from robust_prefix.tasks import Task


class ManualPrompt(Searched[ManualPromptConfig]):
    """A given text before the prompt, on a line of its own, or none."""

    name = "manual-prompt"
    paper = "Brown et al. 2020"
    learns = "nothing: a given text stands before the prompt, or none"
    formula = "0"
    config_type = ManualPromptConfig
    in_template: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """None: there is nothing to search."""
        return 0

    def step(
        self, wording: Wording, population: Sequence[Words], questions: Questions, random: Random
    ) -> tuple[list[Words], Score]:
        """See ``Searched``: what is given stays as it is."""
        return list(population), questions.score(population[0])

    def length(self, task: Task) -> int:
        """The text's tokens are not counted: how many they are only the model's tokenizer says."""
        return 0

    def trainable(self, backbone: Backbone, task: Task, start: Prefix | None = None) -> Trainable:
        """See ``Method``.

        Raises:
            ConfigError: there is a ``start``, or the model or the task cannot have such a text.
        """
        if start is not None:
            raise ConfigError(
                f"expected nothing to start from for {self.name}, whose text is given, got a "
                "prefix; give the text alone"
            )
        text = self.config.text
        if text and not backbone.causal:
            raise ConfigError(
                f"expected a decoder for a text before the prompt, got {backbone.name}, where it "
                f"would read the text; write {text!r} into the task's template"
            )
        return super().trainable(backbone, task)

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> HardPrompt:
        """See ``Method``."""
        text = self.config.text
        tokens = tuple(backbone.tokenize([f"{text}\n"])[0] if text else ())
        wording = Wording(backbone, task, len(tokens), line_break=False)
        # Refuses what no template may hold, such as braces.
        dataclasses.replace(task, template=wording.template(tokens))
        return HardPrompt(wording, tokens, given=True)


def manual_prompt(backbone: Backbone, task: Task, text: str = "") -> Prefix:
    """A text before the prompt as a prefix, to be used without any training.

    Args:
        text: nothing where empty, and then the task's template alone is asked.

    Raises:
        ConfigError: see :class:`ManualPrompt`.
    """
    method = ManualPrompt(ManualPromptConfig(text=text))
    prompt = method.trainable(backbone, task)
    settings = {"method": method.name, "prefix": dataclasses.asdict(method.config)}
    with torch.no_grad():
        return Prefix.of(prompt(backbone), backbone, {**settings, **prompt.notes()})
