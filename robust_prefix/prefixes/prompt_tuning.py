"""Prompt tuning (Lester et al., EMNLP 2021, "The Power of Scale for Parameter-Efficient Prompt
Tuning").

Embeddings of virtual tokens before the prompt are the parameter: the embedding-only ablation of
prefix-tuning (Li & Liang, ACL 2021, section 7.2). They are compiled to keys and values, which on a
decoder is the same model, so that whatever works on a prefix works on them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import PromptTuningConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Learned, Prefix
from robust_prefix.prefixes.initial import initial_tokens
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.tasks import Task


class SoftPrompt(Trainable):
    """The virtual tokens' embeddings as the parameter."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.soft_tokens = nn.Parameter(start.clone())

    def forward(self, backbone: CausalBackbone) -> Learned:
        return Learned(backbone.compile(self.soft_tokens), self.soft_tokens)


class PromptTuning(Method[PromptTuningConfig]):
    """Embeddings of virtual tokens before the prompt."""

    name = "prompt-tuning"
    paper = "Lester et al. 2021"
    learns = "embeddings of virtual tokens before the prompt"
    formula = "hidden * length"
    config_type = PromptTuningConfig

    def build(self, backbone: CausalBackbone, task: Task, start: Prefix | None) -> Trainable:
        if start is not None:
            return SoftPrompt(soft_tokens_of(start))
        config = self.config
        if config.init == "uniform":
            return SoftPrompt(torch.rand(config.length, backbone.hidden_size) - 0.5)
        tokens = initial_tokens(backbone, task, config.init, config.length, config.init_text)
        return SoftPrompt(backbone.embeddings[tokens].float().cpu())


def soft_tokens_of(start: Prefix) -> Tensor:
    """The embeddings to go on from, ``(tokens, hidden)``.

    Raises:
        ConfigError: ``start`` has keys and values alone, which no embeddings may lead to.
    """
    if start.soft_tokens is None:
        raise ConfigError(
            "expected a prefix with soft tokens to start from, got one of the method "
            f"{start.config.get('method', 'prefix-tuning')!r}; go on with --method prefix-tuning"
        )
    return start.soft_tokens
