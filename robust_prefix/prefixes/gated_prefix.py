"""A prefix with learned gates on what it contributes.

Attention over prefix ``P`` and text ``T`` gives ``a o_P + (1 - a) o_T``, where ``o_P`` and ``o_T``
are the outputs of attention over each alone and ``a`` is the share of attention that the prefix
draws (He et al., ICLR 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning",
section 3.1). A gate ``g`` of 0 to 1 on the prefix's values makes this ``g a o_P + (1 - a) o_T``
and is the same as values ``g v``: after training it is folded into them, so that what is kept is a
plain prefix.

Gates of layers and of virtual tokens, on keys and values both, are those of Zhang et al. (ACL 2023,
"Towards Adaptive Prefix Tuning for Parameter-Efficient Language Model Fine-tuning"). There the
gates of tokens follow from the state of the layer before; here they are parameters, for a gate that
depends on the text could not be folded. The gate of LLaMA-Adapter (Zhang et al., ICLR 2024) stands
before a softmax over the prefix alone, which no keys and values amount to, and is not offered.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import GatedPrefixConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.prefixes.prefix_tuning import initial_prefix
from robust_prefix.tasks import Task


class Gated(Trainable):
    """Keys and values, and gates on them.

    Training starts at ``start``: what the gates, as they are at first, take from it is made good.

    Args:
        start: ``(layers, 2, kv_heads, length, head_dim)``.
    """

    def __init__(self, start: Tensor, config: GatedPrefixConfig) -> None:
        super().__init__()
        layers, _, heads, length, _ = start.shape
        shapes = {
            "layer": (layers, 1, 1, 1, 1),
            "head": (layers, 1, heads, 1, 1),
            "token": (layers, 1, 1, length, 1),
        }
        self.gated = config.gated
        opening = math.log(config.opening / (1 - config.opening))
        self.logits = nn.Parameter(torch.full(shapes[config.gate], opening))
        with torch.no_grad():
            self.tensor = nn.Parameter(start / self._factors())

    @property
    def gates(self) -> Tensor:
        """How open each gate is, 0 to 1: ``(layers, 1, 1 or kv_heads, 1 or length, 1)``."""
        return self.logits.sigmoid()

    def _factors(self) -> Tensor:
        """What keys and values are multiplied by, ``(layers, 2, ...)``."""
        of_keys = self.gates if self.gated == "both" else torch.ones_like(self.gates)
        return torch.cat([of_keys, self.gates], dim=1)

    def forward(self, backbone: Backbone) -> Learned:
        return Learned(self.tensor * self._factors())

    def notes(self) -> dict[str, Any]:
        """The gates, a list for each layer."""
        return {"gates": self.gates.detach().flatten(1).tolist()}


class GatedPrefix(Method[GatedPrefixConfig]):
    """Keys and values in every layer, and a gate for each layer, head or virtual token."""

    name = "gated-prefix"
    paper = "after Zhang et al. 2023"
    learns = "keys and values in every layer, and gates that are folded into them"
    formula = "2 * layers * kv_heads * head_dim * length"
    config_type = GatedPrefixConfig

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        if start is None:
            return Gated(initial_prefix(backbone, task, self.config), self.config)
        if start.layers is not None:
            raise ConfigError(
                f"expected a prefix in every layer to start from, got one in {start.layers}; go on "
                "with --method prefix-tuning"
            )
        return Gated(start.tensor, self.config)
