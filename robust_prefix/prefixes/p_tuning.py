"""P-tuning (Liu et al., 2021, "GPT Understands, Too").

An encoder over embeddings of virtual tokens yields the embeddings that the model gets, so that
they depend on each other (section 3.2 of the paper); after training it is dropped and what it
gives is kept. A task's template puts virtual tokens between the texts:
``{prompt:3}{text}{prompt:3}`` is ``{[P_0:2], x, [P_3:5], y}``. The paper's third group, after the
answer, is for models that look ahead: a decoder has given its answer before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import PTuningConfig
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.prefixes.prompt_tuning import initial_embeddings
from robust_prefix.tasks import Task


class EncodedPrompt(Trainable):
    """An encoder over embeddings of virtual tokens.

    Args:
        tokens: virtual tokens in all.
        length: how many of them stand before the prompt; the others are inside it.
        start: ``(tokens, hidden)`` that the encoder's output is added to. The encoder's last layer
            then starts at zero, and training at ``start``.
    """

    def __init__(
        self,
        tokens: int,
        length: int,
        hidden: int,
        config: PTuningConfig,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("start", torch.zeros(tokens, hidden) if start is None else start)
        self.embedding = nn.Parameter(torch.randn(tokens, hidden))
        width = config.encoder_width
        self.lstm: nn.LSTM | None = None
        output = nn.Linear(2 * width if config.encoder == "lstm" else width, hidden)
        if config.encoder == "lstm":
            self.lstm = nn.LSTM(hidden, width, num_layers=2, bidirectional=True)
            hidden_layers = [nn.Linear(2 * width, 2 * width), nn.ReLU()]
        else:
            hidden_layers = [
                nn.Linear(hidden, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
            ]
        self.mlp = nn.Sequential(*hidden_layers, output)
        if start is not None:
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def forward(self, backbone: Backbone) -> Learned:
        states = self.embedding if self.lstm is None else self.lstm(self.embedding)[0]
        soft_tokens = self.get_buffer("start") + self.mlp(states)
        return Learned.compiled(backbone, soft_tokens, self.length)


class PTuning(Method[PTuningConfig]):
    """Embeddings of virtual tokens, through an encoder."""

    name = "p-tuning"
    paper = "Liu et al. 2021"
    learns = "embeddings of virtual tokens, through an LSTM or an MLP"
    formula = "hidden * length"
    config_type = PTuningConfig
    learning_rate = 3e-4
    in_template = True

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        length = self.length(task)
        tokens = length + task.virtual_tokens[1]
        first = initial_embeddings(backbone, task, self.config, tokens, start)
        hidden = backbone.hidden_size
        return EncodedPrompt(tokens, length, hidden, self.config, first)
