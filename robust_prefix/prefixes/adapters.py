"""Adapters (Houlsby et al., ICML 2019, "Parameter-Efficient Transfer Learning for NLP").

Bottlenecks behind the attention and behind the feed-forward network of each layer, before what
these give is added to the layer's states; the model around them stays frozen. The up-projection
starts at zero, so that training starts at the frozen model exactly; the paper starts near it, with
small weights in both. The paper also trains the layers' norms, which here stay frozen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from robust_prefix.backbones import Adapters, Backbone
from robust_prefix.configs import AdaptersConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.head import answers_by_head, with_head
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable, chosen_layers
from robust_prefix.tasks import Task


class Bottlenecks(Trainable):
    """The adapters' weights as the parameters."""

    def __init__(self, start: Adapters) -> None:
        super().__init__()
        self.down = nn.Parameter(start.down.clone())
        self.up = nn.Parameter(start.up.clone())
        self._start = start

    def forward(self, backbone: Backbone) -> Learned:
        adapters = replace(self._start, down=self.down, up=self.up)
        nothing = torch.zeros(backbone.prefix_shape(0), device=self.down.device)
        return Learned(nothing, adapters=adapters)


class AdapterTuning(Method[AdaptersConfig]):
    """Bottlenecks inside the layers, or inside chosen ones."""

    name = "adapters"
    paper = "Houlsby et al. 2019"
    learns = "bottlenecks behind each attention and feed-forward network"
    formula = "2 * adapters * hidden * width + adapters * hidden + adapters * width"
    config_type = AdaptersConfig
    learning_rate = 1e-3

    def length(self, task: Task) -> int:
        """Nothing stands before the prompt."""
        return 0

    def has_head(self, backbone: Backbone) -> bool:
        """See ``Method``."""
        return answers_by_head(self.config.answer, backbone)

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        first = self._first(backbone)
        if start is not None:
            first = _continued(first, start)
        head = self.has_head(backbone)
        return with_head(Bottlenecks(first), backbone, task, start) if head else Bottlenecks(first)

    def _first(self, backbone: Backbone) -> Adapters:
        """Where training starts from nothing."""
        wanted = self.config.places
        places = tuple(
            (layer, name)
            for layer in sorted(chosen_layers(self.config.layers, backbone))
            for name in backbone.sublayers(layer)
            if wanted == "both" or name.endswith(wanted)
        )
        width, hidden = self.config.width, backbone.hidden_size
        down = torch.zeros(len(places), width, hidden + 1)
        down[:, :, :-1] = torch.randn(len(places), width, hidden) * 0.02
        up = torch.zeros(len(places), hidden, width + 1)
        return Adapters(down, up, places, self.config.activation)


def _continued(first: Adapters, start: Prefix) -> Adapters:
    """The adapters of ``start``, which must be such as ``first``."""
    have = start.adapters
    if have is None or _described(have) != _described(first):
        got = "none" if have is None else _described(have)
        raise ConfigError(
            f"expected {_described(first)} to start from, got {got}; ask for the same width, "
            "places, layers and activation, or train from nothing"
        )
    return have


def _described(adapters: Adapters) -> str:
    layers = sorted({layer for layer, _ in adapters.places})
    names = "/".join(dict.fromkeys(name for _, name in adapters.places))
    return f"adapters of width {adapters.width} ({adapters.activation}) at {names} in {layers}"
