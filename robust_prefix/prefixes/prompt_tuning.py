"""Prompt tuning (Lester et al., EMNLP 2021, "The Power of Scale for Parameter-Efficient Prompt
Tuning").

Embeddings of virtual tokens before the prompt are the parameter: the embedding-only ablation of
prefix-tuning (Li & Liang, ACL 2021, section 7.2). They are compiled to keys and values, which on a
decoder is the same model, so that whatever works on a prefix works on them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import PromptTuningConfig, PTuningConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.initial import initial_tokens
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.tasks import Task


class SoftPrompt(Trainable):
    """The virtual tokens' embeddings as the parameter.

    Args:
        start: ``(tokens, hidden)``.
        length: how many of them stand before the prompt; the others are inside it.
    """

    def __init__(self, start: Tensor, length: int) -> None:
        super().__init__()
        self.soft_tokens = nn.Parameter(start.clone())
        self.length = length

    def forward(self, backbone: Backbone) -> Learned:
        return Learned.compiled(backbone, self.soft_tokens, self.length)


class PromptTuning(Method[PromptTuningConfig]):
    """Embeddings of virtual tokens before the prompt."""

    name = "prompt-tuning"
    paper = "Lester et al. 2021"
    learns = "embeddings of virtual tokens before the prompt"
    formula = "hidden * length"
    config_type = PromptTuningConfig
    learning_rate = 3e-2
    in_template = True

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        length = self.length(task)
        tokens = length + task.virtual_tokens[1]
        first = initial_embeddings(backbone, task, self.config, tokens, start)
        if first is None:
            first = torch.rand(tokens, backbone.hidden_size) - 0.5
        return SoftPrompt(first, length)


def initial_embeddings(
    backbone: Backbone,
    task: Task,
    config: PromptTuningConfig | PTuningConfig,
    tokens: int,
    start: Prefix | None,
) -> Tensor | None:
    """Where embeddings start, float32 ``(tokens, hidden)``; None where not from any given ones.

    Raises:
        ConfigError: ``start`` has keys and values alone, which no embeddings may lead to.
    """
    if start is None:
        if config.init in ("uniform", "random"):
            return None
        ids = initial_tokens(backbone, task, config.init, tokens, config.init_text)
        return backbone.embeddings[ids].float().cpu()
    if start.soft_tokens is None:
        raise ConfigError(
            "expected a prefix with soft tokens to start from, got one of the method "
            f"{start.config.get('method', 'prefix-tuning')!r}; go on with --method prefix-tuning"
        )
    return start.soft_tokens
