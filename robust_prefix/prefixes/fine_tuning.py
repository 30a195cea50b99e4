"""Fine-tuning: the model's own weights are trained, all of them or those of chosen layers.

No method of few parameters, but the line that those are compared with in the papers' tables. What
is kept is the weights, as many as the model has where all are trained; the frozen model stays as it
is beside them, so that training and defending take the memory of several models.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.configs import FineTuningConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.head import answers_by_head, with_head
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable, chosen_layers
from robust_prefix.tasks import Task


class OwnWeights(Trainable):
    """Weights in place of the model's as the parameters.

    Args:
        start: by their names in the model, float32 whatever the model's type: small steps would be
            lost in a shorter one.
    """

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(start)
        self.weights = nn.ParameterList(weight.clone() for weight in start.values())

    def forward(self, backbone: Backbone) -> Learned:
        nothing = torch.zeros(backbone.prefix_shape(0), device=backbone.device)
        return Learned(nothing, weights=dict(zip(self.names, self.weights, strict=True)))


class FineTuning(Method[FineTuningConfig]):
    """The model's own weights."""

    name = "fine-tuning"
    paper = "the reference of the others"
    learns = "the model's own weights, all or those of some layers"
    formula = "weights"
    config_type = FineTuningConfig
    learning_rate = 2e-5

    def length(self, task: Task) -> int:
        """Nothing stands before the prompt."""
        return 0

    def has_head(self, backbone: Backbone) -> bool:
        """See ``Method``."""
        return answers_by_head(self.config.answer, backbone)

    def build(self, backbone: Backbone, task: Task, start: Prefix | None) -> Trainable:
        names = chosen_weights(self.config.layers, backbone)
        frozen = dict(backbone.frozen.model.named_parameters())
        weights = {name: frozen[name].detach().float() for name in names}
        if start is not None:
            if start.weights.keys() != weights.keys():
                raise ConfigError(
                    f"expected the weights of the layers {self.config.layers!r} to start from, got "
                    f"{len(start.weights)} of {len(weights)} tensors or others; ask for the same "
                    "layers, or train from nothing"
                )
            weights = {name: start.weights[name] for name in names}
        inner = OwnWeights(weights)
        return with_head(inner, backbone, task, start) if self.has_head(backbone) else inner


def chosen_weights(layers: str, backbone: Backbone) -> list[str]:
    """Names of the weights that are trained: of some layers those inside them alone, of ``all``
    embeddings, the last norm and the model's head, too."""
    named = backbone.frozen.model.named_parameters()
    if layers == "all":
        return [name for name, _ in named]
    numbers = chosen_layers(layers, backbone)
    inside = {id(w) for number in numbers for w in backbone.frozen.layers[number].parameters()}
    return [name for name, weight in named if id(weight) in inside]
