"""Prefix-tuning (Li & Liang, ACL 2021, "Prefix-Tuning: Optimizing Continuous Prompts").

Keys and values in every layer are the parameter, directly or through an MLP that is dropped
after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import GatedPrefixConfig, PrefixTuningConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.head import answers_by_head, with_head
from robust_prefix.prefixes.initial import initial_tokens, mean_activations
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable, chosen_layers
from robust_prefix.tasks import Task


class DirectPrefix(Trainable):
    """The prefix tensor as the parameter.

    Args:
        start: ``(layers, 2, kv_heads, length, head_dim)``.
        layers: those that have a prefix; all where None.
    """

    def __init__(self, start: Tensor, layers: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.num_layers = len(start)
        self.tensor = nn.Parameter(_at(start, layers).clone())

    def forward(self, backbone: Backbone) -> Learned:
        return Learned(_spread(self.tensor, self.layers, self.num_layers), layers=self.layers)


class MLPPrefix(Trainable):
    """An MLP over an embedding of the virtual tokens; its output is added to the start tensor.

    Args:
        start, layers: see :class:`DirectPrefix`.
        width: of the hidden layer.
    """

    def __init__(self, start: Tensor, width: int, layers: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.num_layers = len(start)
        self.register_buffer("start", _at(start, layers).clone())
        chosen, two, heads, length, head_dim = self.get_buffer("start").shape
        self.embedding = nn.Parameter(torch.randn(length, width) * 0.02)
        output = nn.Linear(width, chosen * two * heads * head_dim)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.Tanh(), output)

    def forward(self, backbone: Backbone) -> Learned:
        start = self.get_buffer("start")
        layers, two, heads, length, head_dim = start.shape
        change = self.mlp(self.embedding).view(length, layers, two, heads, head_dim)
        tensor = start + change.permute(1, 2, 3, 0, 4)
        return Learned(_spread(tensor, self.layers, self.num_layers), layers=self.layers)


class PrefixTuning(Method[PrefixTuningConfig]):
    """Keys and values in every layer, or in chosen ones."""

    name = "prefix-tuning"
    paper = "Li & Liang 2021"
    learns = "keys and values in every layer, directly or through an MLP"
    formula = "2 * layers * kv_heads * head_dim * length"
    config_type = PrefixTuningConfig

    def own_learning_rate(self) -> float:
        """See ``Method``. A step on an MLP moves every key and value through all of its units."""
        return 3e-4 if self.config.reparameterization == "mlp" else self.learning_rate

    def has_head(self, backbone: Backbone) -> bool:
        """See ``Method``."""
        return answers_by_head(self.config.answer, backbone)

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        layers = chosen_rows(self.config, backbone)
        if start is not None and start.layers != layers:
            raise ConfigError(
                f"expected a prefix in the layers {self.config.layers!r} to start from, got one in "
                f"{'all' if start.layers is None else start.layers}; ask for these"
            )
        tensor = start.tensor if start is not None else initial_prefix(backbone, task, self.config)
        parameters = build_parameters(tensor, self.config, layers)
        if not self.has_head(backbone):
            return parameters
        return with_head(parameters, backbone, task, start)


def initial_prefix(
    backbone: Backbone, task: Task, config: PrefixTuningConfig | GatedPrefixConfig
) -> Tensor:
    """Where training starts: float32 ``(layers, 2, kv_heads, length, head_dim)``.

    Keys and values of real tokens make training start from a model that works; from noise it takes
    longer to the same accuracy (section 7.4 of the paper).
    """
    if config.init == "random":
        return torch.randn(backbone.prefix_shape(config.length)) * 0.02
    if config.init == "activations":
        return mean_activations(backbone, task, config.length)
    tokens = initial_tokens(backbone, task, config.init, config.length, config.init_text)
    return backbone.token_keys_and_values(tokens).cpu()


def build_parameters(
    start: Tensor, config: PrefixTuningConfig, layers: tuple[int, ...] | None = None
) -> DirectPrefix | MLPPrefix:
    """The trainable module for a start tensor."""
    if config.reparameterization == "mlp":
        return MLPPrefix(start, config.mlp_width, layers)
    return DirectPrefix(start, layers)


def chosen_rows(config: PrefixTuningConfig, backbone: Backbone) -> tuple[int, ...] | None:
    """The rows of a prefix that ``layers`` and ``parts`` of the settings name; None for all.

    Raises:
        ConfigError: the model has no such layer or part, or none is left.
    """
    rows = range(backbone.prefix_rows)
    found = set(rows)
    if config.layers != "all":
        numbers = chosen_layers(config.layers, backbone)
        found = {row for row in rows if backbone.row(row)[0] in numbers}
    if config.parts != "all":
        if not backbone.parts:
            raise ConfigError(
                f"expected an encoder-decoder for parts={config.parts}, got {backbone.name}, which "
                "has one attention a layer; choose its layers instead"
            )
        found = {row for row in found if backbone.row(row)[1] in config.parts.split("/")}
    if not found:
        raise ConfigError(
            f"expected layers with a part {config.parts!r}, got {config.layers!r} of "
            f"{backbone.name}, which have none"
        )
    return None if len(found) == len(rows) else tuple(sorted(found))


def _at(tensor: Tensor, layers: tuple[int, ...] | None) -> Tensor:
    return tensor if layers is None else tensor[list(layers)]


def _spread(tensor: Tensor, layers: tuple[int, ...] | None, num_layers: int) -> Tensor:
    """A tensor of ``layers`` alone among zeros, ``(num_layers, ...)``."""
    if layers is None:
        return tensor
    zeros = torch.zeros(num_layers, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    return zeros.index_copy(0, torch.tensor(layers, device=tensor.device), tensor)
