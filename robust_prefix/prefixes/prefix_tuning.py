"""Prefix-tuning (Li & Liang, ACL 2021, "Prefix-Tuning: Optimizing Continuous Prompts").

Keys and values in every layer are the parameter, directly or through an MLP that is dropped
after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import PrefixTuningConfig
from robust_prefix.prefixes.base import Learned, Prefix
from robust_prefix.prefixes.initial import initial_tokens
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.tasks import Task


class DirectPrefix(Trainable):
    """The prefix tensor as the parameter."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.tensor = nn.Parameter(start.clone())

    def forward(self, backbone: CausalBackbone) -> Learned:
        return Learned(self.tensor)


class MLPPrefix(Trainable):
    """An MLP over an embedding of the virtual tokens; its output is added to the start tensor."""

    def __init__(self, start: Tensor, width: int) -> None:
        super().__init__()
        layers, two, heads, length, head_dim = start.shape
        self.register_buffer("start", start.clone())
        self.embedding = nn.Parameter(torch.randn(length, width) * 0.02)
        output = nn.Linear(width, layers * two * heads * head_dim)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.Tanh(), output)

    def forward(self, backbone: CausalBackbone) -> Learned:
        start = self.get_buffer("start")
        layers, two, heads, length, head_dim = start.shape
        change = self.mlp(self.embedding).view(length, layers, two, heads, head_dim)
        return Learned(start + change.permute(1, 2, 3, 0, 4))


class PrefixTuning(Method[PrefixTuningConfig]):
    """Keys and values in every layer."""

    name = "prefix-tuning"
    paper = "Li & Liang 2021"
    learns = "keys and values in every layer, directly or through an MLP"
    formula = "2 * layers * kv_heads * head_dim * length"
    config_type = PrefixTuningConfig

    def build(self, backbone: CausalBackbone, task: Task, start: Prefix | None) -> Trainable:
        tensor = start.tensor if start is not None else initial_prefix(backbone, task, self.config)
        return build_parameters(tensor, self.config)


def initial_prefix(backbone: CausalBackbone, task: Task, config: PrefixTuningConfig) -> Tensor:
    """Where training starts: float32 ``(layers, 2, kv_heads, length, head_dim)``.

    Keys and values of real tokens make training start from a model that works; from noise it takes
    longer to the same accuracy (section 7.4 of the paper).
    """
    if config.init == "random":
        return torch.randn(backbone.prefix_shape(config.length)) * 0.02
    tokens = initial_tokens(backbone, task, config.init, config.length, config.init_text)
    with torch.no_grad():
        return backbone.compile(backbone.embeddings[tokens]).float().cpu()


def build_parameters(start: Tensor, config: PrefixTuningConfig) -> DirectPrefix | MLPPrefix:
    """The trainable module for a start tensor."""
    if config.reparameterization == "mlp":
        return MLPPrefix(start, config.mlp_width)
    return DirectPrefix(start)
