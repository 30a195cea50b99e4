"""A prompt that is convolved with the text instead of standing before it.

The states before the first layer (embeddings, with positions where the model learns them) become
``x_t + sum_i P_i * x_(t-i)`` with ``i`` from 0 to ``width - 1``: ``P`` ``(width, hidden)`` is the
kernel of a convolution over the prompt's tokens, for each dimension by itself, and ``*`` multiplies
element by element. It looks back only, so that it is the same model whatever follows a token, and
before the first token there are zeros. From a kernel of zeros training starts at the frozen model.

No published method is exactly this: it is the interaction "convolution" between prompt and
embeddings in its smallest form, beside putting one before the other (prompt tuning) and gating
(``gated-prefix``). It does not amount to keys and values and is computed at each pass; a defence's
additional prefix stands alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import ConvPromptConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.tasks import Task


class Kernel(Trainable):
    """The kernel as the parameter.

    Args:
        start: ``(width, hidden)``.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(start.clone())

    def forward(self, backbone: Backbone) -> Learned:
        nothing = torch.zeros(backbone.prefix_shape(0), device=self.kernel.device)
        return Learned(nothing, kernel=self.kernel)


class ConvPrompt(Method[ConvPromptConfig]):
    """A kernel that the prompt's embeddings are convolved with."""

    name = "conv-prompt"
    paper = "own definition"
    learns = "a kernel that the embeddings are convolved with"
    formula = "hidden * width"
    config_type = ConvPromptConfig

    def length(self, task: Task) -> int:
        """Nothing stands before the prompt."""
        return 0

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        if start is None:
            return Kernel(torch.zeros(self.config.width, backbone.hidden_size))
        if start.kernel is None or len(start.kernel) != self.config.width:
            got = "none" if start.kernel is None else f"one of {len(start.kernel)}"
            raise ConfigError(
                f"expected a kernel of {self.config.width} tokens to start from, got {got}; "
                "ask for that width, or train from nothing"
            )
        return Kernel(start.kernel)
